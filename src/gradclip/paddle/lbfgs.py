"""LBFGS takes `grad_clip` and never calls it: whoever gives it a clip of gradclip is told when it is made."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import paddle

from gradclip.errors import GradclipWarning
from gradclip.step.respond import user_level

NEVER_CALLED = (
    "paddle.optimizer.LBFGS takes grad_clip and never calls it, so nothing is clipped: clip inside its closure, after "
    "backward(), with gradclip.paddle.Clipper(rule).clip_(parameters)"
)


@functools.cache
def warn_from_lbfgs(clip: type) -> None:
    """Let both LBFGS of Paddle warn when they are given a `clip`; nothing else of them changes."""
    for kind in paddle.optimizer.Optimizer.__subclasses__():  # the older one is hidden in a function
        if kind.__name__ == "LBFGS" and kind.__module__.startswith("paddle."):
            kind.__init__ = _warning(kind.__init__, clip)


def _warning(make: Any, clip: type) -> Any:
    @functools.wraps(make)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        make(self, *args, **kwargs)
        if isinstance(self._grad_clip, clip):
            warnings.warn(NEVER_CALLED, GradclipWarning, stacklevel=user_level())

    return __init__
