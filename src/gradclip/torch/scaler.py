"""GradScaler: found among the callers of a step, and heard when it leaves a step out."""

from __future__ import annotations

import functools
import sys
import weakref
from collections.abc import Callable
from types import FrameType
from typing import Any, Protocol

from torch.amp.grad_scaler import GradScaler, OptState
from torch.optim import Optimizer

from gradclip.torch.eager import eager
from gradclip.torch.optimizers import inside


class LeftOutListener(Protocol):
    """Who is told of the steps that a GradScaler leaves out; it says which begin, by `begun`."""

    def listens_to(self, optimizer: Optimizer) -> bool:
        """Whether it wants to be told of this optimizer."""

    def left_out(self, optimizer: Optimizer) -> None:
        """Hear that the optimizer was not called, because a gradient of it is not finite."""


_listeners: weakref.WeakSet[LeftOutListener] = weakref.WeakSet()
_wrapped: list[Callable[..., Any]] = []
"""While `GradScaler.step` is wrapped: what it was, and what it is."""
STEPS = ("step", "_maybe_opt_step")
"""The methods of a GradScaler that call an optimizer."""
_not_begun: set[int] = set()
"""The optimizers, by identity, that a GradScaler was asked to step and that have not begun to."""


def listen(listener: LeftOutListener) -> None:
    """Tell `listener` of each step that a GradScaler leaves out; `GradScaler.step` is wrapped while anybody listens."""
    _listeners.add(listener)
    weakref.finalize(listener, unwrap).atexit = False
    if not _wrapped:
        _wrapped[:] = GradScaler.step, notifying(GradScaler.step)
        _set_step(_wrapped[1])


def stop_listening(listener: LeftOutListener) -> None:
    """Tell `listener` no more."""
    _listeners.discard(listener)
    unwrap()


def begun(optimizer: Optimizer) -> None:
    """Note that `optimizer` begins to step."""
    # the listeners' own hooks say so: one that came and went would make `torch.compile` compile each step anew
    _not_begun.discard(id(optimizer))


def unwrap() -> None:
    """Make `GradScaler.step` what it was, if nobody listens and nobody else has wrapped it since."""
    if not list(_listeners) and _wrapped and GradScaler.step is _wrapped[1]:
        _set_step(_wrapped[0])
        _wrapped.clear()


def _set_step(step: Callable[..., Any]) -> None:
    GradScaler.step = step  # type: ignore[method-assign]  # it has no hook


def notifying(step: Callable[..., Any]) -> Callable[..., Any]:
    """`GradScaler.step`, which leaves a step out without a word, so that those who hear the optimizer are told."""

    @eager
    @functools.wraps(step)
    def step_and_notify(self: GradScaler, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        inner = inside(optimizer) if self.is_enabled() else None
        hearing = [listener for listener in _listeners if inner is not None and listener.listens_to(inner)]
        if inner is None or not hearing:
            return step(self, optimizer, *args, **kwargs)
        _not_begun.add(id(inner))
        try:
            returned = step(self, optimizer, *args, **kwargs)
            left_out = id(inner) in _not_begun
        finally:
            _not_begun.discard(id(inner))
        for listener in hearing if left_out else ():
            listener.left_out(inner)
        return returned

    return step_and_notify


def to_be_left_out(others: list[Optimizer], stepping: Optimizer) -> list[Optimizer]:
    """Those of the `others` that the GradScaler which is calling `stepping` will not call, for an overflow.

    Raises where their gradients still carry the loss scale, because they were not unscaled before.
    """
    scaler = _calling(GradScaler)
    if scaler is None or not scaler.is_enabled():
        return []
    fused = getattr(stepping, "grad_scale", None) is not None
    states = [scaler._per_optimizer_states[id(other)] for other in others]
    if fused or OptState.READY in [state["stage"] for state in states]:
        raise RuntimeError(
            "several optimizers under one norm need unscaled gradients: call scaler.unscale_(optimizer) for each of "
            "them before the first scaler.step(...)"
        )
    found = [state["found_inf_per_device"].values() for state in states]
    return [other for other, flags in zip(others, found, strict=True) if any(float(flag) for flag in flags)]


def _calling(kind: type[GradScaler]) -> GradScaler | None:
    """The scaler whose `step` is calling, if one is: PyTorch hands it to no hook."""
    frame: FrameType | None = sys._getframe(1)
    depth = 0
    while frame is not None and depth < 30:
        # of its own frames alone: Python keeps what it showed of another's variables as long as that runs
        if frame.f_code.co_name in STEPS and isinstance(found := frame.f_locals.get("self"), kind):
            return found
        frame, depth = frame.f_back, depth + 1
    return None
