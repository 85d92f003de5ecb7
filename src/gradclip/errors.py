"""The errors and the warning of gradclip. Each says what is wrong, where, and what to do instead."""

from __future__ import annotations

import sys

__all__ = ["GradclipWarning", "GradientAboveThreshold", "NonFiniteGradient", "TooManySkips"]


class NonFiniteGradient(RuntimeError):
    """A gradient holds NaN or infinity and the clipper was told to raise; no gradient was written."""

    parameters: tuple[str, ...] = ()
    """The names of those that have one."""


class GradientAboveThreshold(RuntimeError):
    """A rule with the response `Raise` met a measure above its threshold; no gradient was written."""


class TooManySkips(RuntimeError):
    """More steps in a row were skipped than `max_consecutive_skips` allows."""


class GradclipWarning(UserWarning):
    """Clipping that does less than its user will expect."""


def user_level() -> int:
    """The `stacklevel` at which a warning points at the first line outside this package and the frameworks."""
    level, frame = 1, sys._getframe(1)
    inner = ("gradclip", "torch", "paddle", "jax", "optax", "contextlib", "decorator")
    while frame.f_back is not None and frame.f_globals.get("__name__", "").split(".")[0] in inner:
        frame, level = frame.f_back, level + 1
    return level
