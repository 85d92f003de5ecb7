"""The errors and the warning of gradclip. Each says what is wrong, where, and what to do instead."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

__all__ = ["GradclipWarning", "GradientAboveThreshold", "NonFiniteGradient", "NothingClipped", "TooManySkips"]


class NonFiniteGradient(RuntimeError):
    """A gradient holds NaN or infinity and the clipper was told to raise; its message says whether any was written."""

    parameters: tuple[str, ...] = ()
    """The names of those that have one."""


class GradientAboveThreshold(RuntimeError):
    """A rule with the response `Raise` met a measure above its threshold; no gradient was written."""


class NothingClipped(RuntimeError, AttributeError):
    """There is no last step yet; as for an attribute that is not there, `hasattr(clipper, "last")` is False."""


class TooManySkips(RuntimeError):
    """More steps in a row were skipped than `max_consecutive_skips` allows."""


class GradclipWarning(UserWarning):
    """Clipping that does less than its user will expect."""


MOST_SHOWN = 120
"""Characters of what somebody gave, in a sentence about it."""


def shown(value: object, most: int = MOST_SHOWN) -> str:
    """What somebody gave, as errors quote it: in one line that is not too long."""
    try:
        return shortened(" ".join(repr(value).split()), most)
    except ValueError:  # Python writes no whole number of more than 4300 digits
        return f"a {type(value).__name__} of more digits than can be shown"


def shortened(text: str, most: int = MOST_SHOWN) -> str:
    """The beginning of `text`, with dots for what is too long."""
    return text if len(text) <= most else text[: most - 3] + "..."


@contextlib.contextmanager
def needing(door: str, extra: str, *packages: str) -> Iterator[None]:
    """While a door is imported: where one of its packages is not there, the error says how to install them."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in packages:
            raise
        words = f'{door} needs {" and ".join(packages)}: pip install "gradclip[{extra}]"'
        raise ModuleNotFoundError(words, name=error.name) from None
