"""What people give to the parts of rules: checked at once, and refused in a sentence that says what to write.

Numbers may be plain ones, those of NumPy, and arrays and tensors of one number without axes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Real


def plain_number(value: object) -> object:
    """The number of `value` as a plain one, read from its device where it lies on one; all else as it is.

    A number that a compiled program is only going to compute stays what it is.
    """
    if not has_no_axes(value):
        return value
    try:
        return value.item()  # type: ignore[attr-defined]
    except (AttributeError, TypeError, RuntimeError):  # a number that is not known yet
        return value


def has_no_axes(value: object) -> bool:
    """Whether this is a NumPy number, or an array or tensor of one number without axes."""
    shape = getattr(value, "shape", None)
    return isinstance(shape, tuple | list) and not shape


def real_number(value: object) -> float | None:
    """The real number of `value`, None where it has none; True and False are no numbers."""
    number = plain_number(value)
    return float(number) if isinstance(number, Real) and not isinstance(number, bool) else None


def keep(part: object, name: str, number: float) -> None:
    """Set a field of a frozen part to the plain number that was made of it."""
    object.__setattr__(part, name, number)


def checked_share(value: object, what: str, example: str) -> float:
    """`value` as a float in [0, 1), or the error that says what to write."""
    number = real_number(value)
    if number is None:
        raise TypeError(f"{what} is a number in [0, 1), got {value!r}: write {example}")
    if not 0.0 <= number < 1.0:
        raise ValueError(f"{what} lies in [0, 1), got {value!r}: write {example}")
    return number


def checked_factor(value: object, what: str, example: str) -> float:
    """`value` as a finite float above 0, or the error that says what to write."""
    number = real_number(value)
    if number is None:
        raise TypeError(f"{what} is a number above 0, got {value!r}: write {example}")
    if not 0.0 < number < math.inf:
        raise ValueError(f"{what} is above 0 and finite, got {value!r}: write {example}")
    return number


def checked_least(value: object, what: str, example: str) -> float:
    """`value` as a finite float from 0, or the error that says what to write."""
    number = real_number(value)
    if number is None:
        raise TypeError(f"{what} is a number from 0, got {value!r}: write {example}")
    if not 0.0 <= number < math.inf:
        raise ValueError(f"{what} is from 0 and finite, got {value!r}: write {example}")
    return number


def checked_flag(value: object, what: str) -> bool:
    """`value` as True or False, or the error that names it."""
    flag = plain_number(value)
    if not isinstance(flag, bool | int) or flag not in (0, 1):
        raise TypeError(f"{what} is True or False, got {value!r}")
    return bool(flag)


def checked_word(value: object, what: str, words: Iterable[str]) -> None:
    """Raise unless `value` is one of `words`."""
    known = list(words)
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{what} is one of {', '.join(map(repr, known))}, got {value!r}")
