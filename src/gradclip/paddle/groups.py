"""Parameter groups under one norm.

Paddle hands a clip one parameter group after another, and updates each before it hands over the next. A norm over all
of them needs the gradients of the groups whose turn comes later: they are found through the optimizer that calls, are
clipped with the first group, and are recognised when their turn comes (decision 0015).
"""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any, NamedTuple

from gradclip.engines.paddle_legacy import PaddleTensor
from gradclip.paddle.parameters import Pair, gradient_of

DEEPEST = 12
"""Frames between the clip and the optimizer: its own, Paddle's base class, and decorators."""


class Ahead(NamedTuple):
    """What was decided for a parameter ahead of its turn: the gradient as it was left, and the clipped one, if any."""

    parameter: PaddleTensor
    stamp: tuple[int, int]
    clipped: PaddleTensor


class Turns:
    """The gradients that were clipped ahead, until their parameter group has its turn."""

    def __init__(self) -> None:
        self._ahead: dict[int, Ahead] = {}

    def taken(self, pairs: list[Pair]) -> list[Pair] | None:
        """The pairs of a group that was clipped ahead; None if it was not, or if its gradients changed since."""
        if not (self._ahead and pairs):
            return None
        found = [self._ahead.get(id(parameter)) for parameter, _ in pairs]
        for entry, (_, gradient) in zip(found, pairs, strict=True):
            if entry is None or entry.stamp != _stamp(gradient):
                return None
        for parameter, _ in pairs:
            del self._ahead[id(parameter)]
        return [(entry.parameter, entry.clipped) for entry in found if entry is not None and entry.clipped is not None]

    def put(self, given: list[Pair], clipped: list[Pair]) -> None:
        """Remember what became of the gradients `given`; where nothing did, their step is skipped."""
        gradients = [gradient for _, gradient in clipped] or [None] * len(given)
        self._ahead = {
            id(parameter): Ahead(parameter, _stamp(gradient), result)
            for (parameter, gradient), result in zip(given, gradients, strict=True)
        }

    def __reduce__(self) -> tuple[type[Turns], tuple[()]]:
        """A copy has no turn to wait for."""
        return Turns, ()


class Call(NamedTuple):
    """The step of an optimizer that hands over gradients, and the number of their parameter group, if it has groups."""

    optimizer: Any
    number: int | None

    @property
    def overflowed(self) -> bool:
        """Whether a GradScaler found that the scaled gradients overflowed: the optimizer will not step on them."""
        return self.optimizer is not None and bool(self.optimizer._get_auxiliary_var("found_inf"))

    def refuse_skips(self) -> None:
        """Refuse a clip that may skip where the optimizer updates all tensors in one call, which needs some."""
        if getattr(self.optimizer, "_use_multi_tensor", False):
            raise NotImplementedError(
                f"{type(self.optimizer).__name__}(use_multi_tensor=True) cannot leave a step out, which this clip may "
                'ask for: use_multi_tensor=False, or on_nonfinite="zero" and a response other than SkipStep()'
            )

    def groups_with(self, clip: object) -> list[tuple[int, dict[str, Any]]]:
        """The parameter groups with this clip, with their numbers."""
        if self.number is None:
            return []
        return [(i, group) for i, group in enumerate(self.optimizer._param_groups) if group.get("grad_clip") is clip]

    def is_first_of(self, clip: object) -> bool:
        """Whether no group with this clip had its turn before, in this step."""
        return self.number in [number for number, _ in self.groups_with(clip)][:1] or self.number is None


NOBODY = Call(None, None)


def call_with(params_grads: object) -> Call:
    """Who hands over `params_grads`: Paddle tells a clip nothing but the pairs, so its callers are looked through."""
    frame: FrameType | None = sys._getframe(1)
    for _ in range(DEEPEST):
        if frame is None or frame.f_code.co_name == "_apply_optimize":
            break
        frame = frame.f_back
    else:
        frame = None
    found = {} if frame is None else frame.f_locals
    given = found.get("params_grads")
    if given is params_grads:
        return Call(found["self"], None)
    grouped = isinstance(given, dict) and given.get("params") is params_grads
    return Call(found["self"], found["param_group_idx"]) if grouped else NOBODY


def refuse_group_sharded() -> None:
    """Refuse to clip inside `group_sharded_parallel`: its processes have slices, and it sums up Paddle's clip alone."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if ".group_sharded" in frame.f_globals.get("__name__", ""):
            raise NotImplementedError(
                "group_sharded_parallel gives each process slices of the gradients, which gradclip does not sum up: "
                "use fleet's sharding_degree, or paddle.nn.ClipGradByGlobalNorm there"
            )
        frame = frame.f_back


def later_groups(clip: object, call: Call) -> tuple[list[Pair], list[int]]:
    """The pairs of the groups with this clip whose turn comes after this one, and the numbers of their groups."""
    pairs: list[Pair] = []
    numbers: list[int] = []
    for number, group in call.groups_with(clip):
        if call.number is not None and number > call.number:
            found = [(p, g) for p in group["params"] if not p.stop_gradient and (g := gradient_of(p)) is not None]
            pairs += found
            numbers += [number] * len(found)
    return pairs, numbers


def _stamp(gradient: PaddleTensor) -> tuple[int, int]:
    """What changes when a gradient is replaced or written; of SelectedRows Paddle counts no writes."""
    if gradient.is_selected_rows():
        return gradient.get_selected_rows().get_tensor()._ptr(), 0
    return gradient.data_ptr(), gradient.inplace_version
