"""What people give to the parts of rules: checked at once, and refused in a sentence that says what to write.

Numbers may be plain ones, those of NumPy, and arrays and tensors of one number without axes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from io import IOBase
from numbers import Real
from typing import Any, TypeGuard, TypeVar

from gradclip.errors import shown

Part = TypeVar("Part")


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
    if isinstance(number, bool) or not isinstance(number, Real):
        return None
    try:
        return float(number)
    except OverflowError:  # a whole number that no float holds
        return None


def items_of(value: object) -> list[Any] | None:
    """What is in `value`, None where it is not made of items: an array without axes or a file only looks like it."""
    if not isinstance(value, Iterable) or isinstance(value, IOBase) or has_no_axes(value):
        return None
    return list(value)


MOST = 1 << 53
"""Whole numbers below this are counted exactly in float64."""


def is_whole(value: object, least: int) -> bool:
    """Whether `value` is a whole number from `least` that arrays of float64 count exactly."""
    return type(value) is int and least <= value < MOST


def is_part(value: object, kind: type[Part]) -> TypeGuard[Part]:
    """Whether `value` is of a class derived from `kind`, which itself is only what parts derive from."""
    return isinstance(value, kind) and type(value) is not kind


def keep(part: object, name: str, number: object) -> None:
    """Set a field of a frozen part to the plain number that was made of it."""
    object.__setattr__(part, name, number)


def checked_share(value: object, what: str, example: str) -> float:
    """`value` as a float in [0, 1), or the error that says what to write."""
    return _checked(value, what, "in [0, 1)", lambda number: 0.0 <= number < 1.0, example)


def checked_factor(value: object, what: str, example: str) -> float:
    """`value` as a finite float above 0, or the error that says what to write."""
    return _checked(value, what, "above 0 and finite", lambda number: 0.0 < number < math.inf, example)


def checked_least(value: object, what: str, example: str) -> float:
    """`value` as a finite float from 0, or the error that says what to write."""
    return _checked(value, what, "from 0 and finite", lambda number: 0.0 <= number < math.inf, example)


def _checked(value: object, what: str, where: str, holds: Callable[[float], bool], example: str) -> float:
    number = real_number(value)
    if number is None or not holds(number):
        kind: type[Exception] = TypeError if number is None else ValueError
        raise kind(f"{what} is a number {where}, got {shown(value)}: write {example}")
    return number


def checked_flag(value: object, what: str) -> bool:
    """`value` as True or False, or the error that names it."""
    if isinstance(value, bool):
        return value
    flag = plain_number(value)
    if not isinstance(flag, bool | int) or flag not in (0, 1):
        raise TypeError(f"{what} is True or False, got {shown(value)}")
    return bool(flag)


def checked_word(value: object, what: str, words: Iterable[str]) -> None:
    """Raise unless `value` is one of `words`."""
    known = list(words)
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{what} is one of {', '.join(map(repr, known))}, got {shown(value)}")
