"""The errors and the warning of gradclip. Each says what is wrong, where, and what to do instead."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from signal import SIGINT
from typing import Any

__all__ = ["GradclipWarning", "GradientAboveThreshold", "NonFiniteGradient", "NothingClipped", "TooManySkips"]


class NonFiniteGradient(RuntimeError):
    """A gradient holds NaN or infinity and the clipper was told to raise; its message says whether any was written.

    >>> import numpy as np
    >>> from gradclip.testing import REFERENCE
    >>> REFERENCE.clip(ClipGradByNorm(1.0), [np.array([np.nan, 1.0])], on_nonfinite="raise").error.parameters
    ('t0',)
    """

    parameters: tuple[str, ...] = ()
    """The names of those that have one."""


class GradientAboveThreshold(RuntimeError):
    """A rule with the response `Raise` met a measure above its threshold; no gradient was written.

    >>> import numpy as np
    >>> from gradclip.testing import REFERENCE
    >>> outcome = REFERENCE.clip(Rule(response=Raise()), [np.array([3.0, 4.0])])
    >>> type(outcome.error).__name__, outcome.after[0].tolist()
    ('GradientAboveThreshold', [3.0, 4.0])
    """


class NothingClipped(RuntimeError, AttributeError):
    """There is no last step yet; as for an attribute that is not there, `hasattr(clipper, "last")` is False.

    >>> from gradclip.clipper import Clipper
    >>> hasattr(Clipper(ClipGradByNorm(1.0)), "last")
    False
    """


class TooManySkips(RuntimeError):
    """More steps in a row were skipped than `max_consecutive_skips` allows.

    >>> import numpy as np
    >>> from gradclip.clipper import Clipper
    >>> from gradclip.testing import REFERENCE
    >>> clipper = Clipper(ClipGradByNorm(1.0), on_nonfinite="skip", max_consecutive_skips=1)
    >>> REFERENCE.clip(clipper, [np.array([np.nan])]).result.skipped
    True
    >>> REFERENCE.clip(clipper, [np.array([np.nan])])  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    gradclip.errors.TooManySkips: 2 steps in a row were skipped, ...
    """


class GradclipWarning(UserWarning):
    """Clipping that does less than its user will expect.

    >>> import warnings
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("error", GradclipWarning)  # from here on it ends the training
    """


class Stopped(KeyboardInterrupt):
    """Somebody ended long work by the signal in `args`; `found` is what it has shown so far."""

    def __init__(self, by: KeyboardInterrupt, found: Any) -> None:
        super().__init__(*(by.args or (SIGINT,)))
        self.found = found


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


class UnsuitedRule(ValueError):
    """A rule reads what this training does not have."""


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
