"""The clipper of Paddle's eager tensors: for the pairs that an optimizer hands over, and the explicit form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from typing import Any

import paddle

from gradclip import clipper
from gradclip.engines import choice, paddle_layout
from gradclip.engines.base import Engine, Slot, UnsupportedGradient
from gradclip.engines.paddle import ENGINE as PADDLE
from gradclip.engines.paddle_arrays import WIDE, Wide
from gradclip.engines.paddle_legacy import PaddleTensor
from gradclip.paddle.fleet import across_of, shares
from gradclip.paddle.parameters import (
    NeedClip,
    Pair,
    drop_gradients,
    gradient_of,
    needs_clip,
    parameters_of,
    put_gradient,
)
from gradclip.rules.rule import AnyRule
from gradclip.step.gradients import Gradients, checked_need_clip, one_float
from gradclip.step.memory import Memories
from gradclip.step.respond import report_none_found, slow
from gradclip.step.result import Result
from gradclip.telemetry import Telemetry


class Clipper(clipper.Clipper):
    """Clips the gradients of Paddle parameters by a rule.

    `need_clip` is a function of a parameter; one that it refuses is neither measured nor scaled, as is one with
    `ParamAttr(need_clip=False)`. `engine` is "cpu" or "paddle"; None takes "cpu" for gradients on the CPU if numba is
    installed, else "paddle", and `last.engine` says which it was. The other arguments: `gradclip.clipper.Clipper`.

    >>> weight = paddle.create_parameter([2], "float32")
    >>> weight.grad = paddle.to_tensor([3.0, 4.0])
    >>> Clipper(gradclip.ClipGradByGlobalNorm(1.0)).clip_([weight]).norm_before
    5.0
    >>> weight.grad.tolist()
    [0.6000000238418579, 0.800000011920929]
    """

    def __init__(
        self,
        rule: AnyRule,
        *,
        on_nonfinite: str = "keep",
        max_consecutive_skips: int | None = None,
        need_clip: NeedClip | None = None,
        engine: str | None = None,
        telemetry: Telemetry | None = None,
    ) -> None:
        super().__init__(
            rule, on_nonfinite=on_nonfinite, max_consecutive_skips=max_consecutive_skips, telemetry=telemetry
        )
        self.need_clip: NeedClip | None = checked_need_clip(need_clip)
        self.engine_name: str | None = checked_engine(engine)

    def clip_(self, parameters: Any) -> Result:
        """Clip the gradients of `parameters` in place and return the result, whose float is the norm before.

        `parameters` is a layer, an optimizer, an iterable of parameters or of (name, parameter), a dict or a tensor.
        When the step is to be skipped, every gradient becomes None, so that the optimizer has nothing to step on.
        """
        given = parameters_of(parameters)
        found = [(i, g) for i, p in enumerate(given.tensors) if (g := gradient_of(p)) is not None]
        pairs = [(given.tensors[i], g) for i, g in found]
        groups = None if given.groups is None else [given.groups[i] for i, _ in found]
        before = self._last
        clipped = self.clip_pairs(pairs, groups, lambda index: given.name(found[index][0]))
        if self._last is before:
            if given.tensors:
                report_none_found(not all(p.stop_gradient for p in given.tensors))
            return Result(self.step, PADDLE)
        if not clipped:
            drop_gradients(given.tensors)
        for (parameter, gradient), (_, before_clip) in zip(clipped, pairs, strict=False):
            if gradient is not before_clip:
                put_gradient(parameter, gradient)
        return self.last

    def tells(self) -> bool:
        """Whether this is rank 0, or the only process."""
        return bool(paddle.distributed.get_rank() == 0)

    def clip_pairs(
        self,
        pairs: list[Pair],
        groups: Sequence[int] | None = None,
        name: Callable[[int], str] | None = None,
        optimizer: paddle.optimizer.Optimizer | None = None,
    ) -> list[Pair]:
        """`pairs` with clipped gradients, in their order; none at all if the step is to be skipped.

        Gradients on the CPU are written in place, others are new tensors. Where there is none to clip, `last` stays.
        """
        numbers = self.taken_given()
        chosen = [i for i, (parameter, _) in enumerate(pairs) if needs_clip(parameter, self.need_clip)]
        kept, shared = pairs if len(chosen) == len(pairs) else [pairs[i] for i in chosen], shares()
        parameters, gradients = [parameter for parameter, _ in kept], [gradient for _, gradient in kept]
        if not kept:
            if not shared:
                return pairs
            parameters = gradients = [paddle.zeros([0])]  # the other processes wait for what this one adds
        chosen_gradients = Gradients(
            gradients,
            lambda index: str(parameters[index].name) if name is None else name(chosen[index]),
            None if groups is None else [groups[i] for i in chosen],
            lambda: parameters,
            across=across_of(parameters, self.rule) if shared else None,
            given=numbers,
            moments=None if optimizer is None else lambda: second_moments(optimizer, parameters),
        )
        clipped = self._clipped(chosen_gradients)
        if clipped is None or clipped is chosen_gradients.tensors:
            return [] if clipped is None else pairs
        result = list(pairs)
        for i, gradient in zip(chosen, clipped, strict=False):
            result[i] = (pairs[i][0], gradient)
        return result

    def _clipped(self, gradients: Gradients) -> list[PaddleTensor] | None:
        """The gradients after the clip, the list itself where they were written in place; None to skip the step."""
        engine = engine_for(gradients.tensors, self.engine_name)
        given = {name: number_for(engine, number) for name, number in gradients.given.items()}
        gradients = gradients._replace(given=given)
        if engine is not PADDLE:
            result = self.clip_gradients(gradients, engine)
            return None if self.can_skip and result.skipped else gradients.tensors
        held = in_slots(gradients)
        with paddle.no_grad():
            result = self.clip_gradients(held, engine)
            if self.can_skip and result.skipped:
                return None
            return [out_of_slot(slot, gradient) for slot, gradient in zip(held.tensors, gradients.tensors, strict=True)]

    def __getstate__(self) -> dict[str, Any]:
        """What copies and pickles keep: the rule, its options and the memory, not the last step and no telemetry."""
        memories = Memories()
        memories.load(self.memories.plain(lambda array: self.last.to_host(array)))
        return {
            **super().__getstate__(),
            "memories": memories,
            "answer": copy(self.answer),
            "_given": {},
            "_last": None,
        }


def checked_engine(name: str | None) -> str | None:
    """`name` if there is such an engine here, or the error that says what there is."""
    return choice.checked(name, "paddle", "Paddle", {"cpu": cpu_engine})


def engine_for(gradients: list[PaddleTensor], name: str | None = None) -> Engine:
    """The engine called `name`, or the fastest that is installed for the device of the first gradient."""
    here = not gradients or not isinstance(gradients[0], paddle.Tensor) or gradients[0].place.is_cpu_place()
    return PADDLE if name == "paddle" or not here else cpu_engine() or slow(PADDLE)


def number_for(engine: Engine, number: PaddleTensor | float) -> Wide | float:
    """A number or a tensor of one element as an array [1]; a float for the compiled engine."""
    if not isinstance(number, paddle.Tensor) or engine is not PADDLE:
        return one_float(number)
    return Wide(paddle.reshape(number.detach().astype(WIDE), [1]))


SECOND = "moment2"
"""What Paddle's optimizers call the second moment."""


def second_moments(optimizer: paddle.optimizer.Optimizer, parameters: list[PaddleTensor]) -> list[PaddleTensor]:
    """What the optimizer keeps of the squares of each gradient; None where a parameter was not stepped yet."""
    if not hasattr(optimizer, "_moment2_acc_str") or getattr(optimizer, "_use_multi_tensor", False):
        raise ValueError(
            f"{type(optimizer).__name__} keeps no second moment ({SECOND!r}) of each parameter, which this rule reads: "
            "use it with Adam, AdamW or NAdam, and without use_multi_tensor"
        )
    known, masters = optimizer._accumulators.get(SECOND, {}), optimizer._master_weights
    names = [(parameter.name, getattr(masters.get(parameter.name), "name", None)) for parameter in parameters]
    return [known.get(name, known.get(master)) for name, master in names]


def cpu_engine() -> Engine | None:
    """The compiled engine for the CPU; None where numba is not installed."""
    return choice.compiled(paddle_layout)


def in_slots(gradients: Gradients) -> Gradients:
    """The gradients in slots; those that share their memory share the slot, and are scaled once."""
    slots: dict[tuple[int, int], Slot] = {}
    held = []
    for index, gradient in enumerate(gradients.tensors):
        try:
            tensor = paddle_layout.plain(gradient, index)
        except UnsupportedGradient as error:
            raise TypeError(f"the gradient of {gradients.name(index)!r} cannot be clipped: {error.reason}") from None
        place = (tensor.data_ptr(), tensor.size) if tensor.size else (0, -index)
        held.append(slots.setdefault(place, Slot(tensor)))
    weights = gradients.weights
    return gradients._replace(tensors=held, weights=lambda: list(map(Slot, weights())) if weights else [])


def out_of_slot(slot: Slot, gradient: PaddleTensor) -> PaddleTensor:
    """The gradient that an engine left in `slot`; rows of SelectedRows are copied to where they were."""
    if gradient.is_selected_rows():
        paddle_layout.write(paddle_layout.merged_rows(gradient), slot.value)
        return gradient
    return slot.value
