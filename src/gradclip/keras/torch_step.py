"""A step on PyTorch: the clipper of `gradclip.torch` with its memory in variables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from gradclip.keras.kept import LAST, SKIPS, STEP, TENSORS, KeptVariables, Shapes, Values, remembered
from gradclip.keras.last_step import NUMBERS
from gradclip.rules.rule import AnyRule
from gradclip.step.gradients import Gradients, name_at
from gradclip.step.memory import key_of, text_of
from gradclip.step.result import Result
from gradclip.torch.clipper import Clipper, engine_for
from gradclip.torch.eager import eager


class StepLeftOut(Exception):  # no error: it ends an update that is not to be made
    """The rule leaves the step out, of which nothing was written."""


class TorchStep:
    """Clips the gradients of one optimizer on PyTorch."""

    def __init__(self, rule: AnyRule, on_nonfinite: str, tensors: bool) -> None:
        self._clipper = Clipper(rule, on_nonfinite=on_nonfinite)
        self._clipper.tensors = tensors
        self._names: list[str] = []
        self._last: Result | None = None

    def begin(self, names: Sequence[str], weights: Sequence[Any]) -> Shapes:
        """What a rule remembers shows in a step of zeros, of which nothing is learnt."""
        self._names = list(names)
        if self._clipper.line.adapts or self._clipper.line.carries:
            self._run({i: torch.zeros_like(weight) for i, weight in enumerate(weights)}, weights)
        floats = "float32" if weights[0].device.type == "mps" else "float64"
        shapes = {name: (tuple(value.shape), dtype_of(value)) for name, value in self._remembered().items()}
        if self._clipper.tensors:
            shapes[TENSORS] = ((len(names),), floats)
        return {STEP: ((), "int32"), SKIPS: ((), "int32"), LAST: ((NUMBERS,), floats), **shapes}

    @eager
    @torch.no_grad()
    def clip(self, gradients: Mapping[int, Any], weights: Sequence[Any], kept: KeptVariables) -> Mapping[int, Any]:
        """The `.grad` of a weight is written in place, as everywhere in PyTorch, and no other tensor is."""
        tensors = {i: each if is_grad_of(each, weights[i]) else each.clone() for i, each in gradients.items()}
        self._take(kept)
        self._last = result = self._run(tensors, weights)
        skipped = self._clipper.can_skip and result.skipped
        skips = kept[SKIPS] + 1 if skipped else torch.zeros_like(kept[SKIPS])
        kept.take({STEP: kept[STEP] + 1, SKIPS: skips, **self._remembered()})
        if skipped:
            raise StepLeftOut
        return tensors

    def around(self, optimizer: Any, apply: Callable[[], None], kept: KeptVariables) -> None:
        """A step that is left out ends before anything is written; gradients that were summed up begin anew."""
        try:
            apply()
        except StepLeftOut:
            if steps := optimizer.gradient_accumulation_steps:
                optimizer._backend_reset_gradient_accumulators()
                optimizer._iterations.assign(optimizer._iterations.value + 1 - steps)

    def unread(self) -> Mapping[str, Sequence[float]]:
        """Reading a result is what waits for a device, so it is read when somebody asks."""
        if (result := self._last) is None:
            return {}
        self._last = None
        numbers = [result.norm_before, result.norm_after, result.threshold, result.coefficient]
        found = {LAST: [*numbers, result.clipped, result.nonfinite, result.skipped, 1.0, 1.0]}
        if self._clipper.tensors:
            found[TENSORS] = [result.tensors.get(name, 0.0) for name in self._names]
        return found

    def _run(self, tensors: Mapping[int, Any], weights: Sequence[Any]) -> Result:
        """Clip these tensors in place."""
        places = list(tensors)
        gradients = Gradients(
            list(tensors.values()),
            partial(name_at, self._names.__getitem__, places),
            weights=lambda: [weights[i].detach() for i in places],
        )
        return self._clipper.clip_gradients(gradients, engine_for(gradients.tensors))

    def _remembered(self) -> Values:
        """What the clipper remembers, as tensors."""
        states = self._clipper.memories.states
        memories = {
            text_of(key): {name: as_tensor(value) for name, value in state.items()} for key, state in states.items()
        }
        return remembered(memories, self._clipper.carried, self._names)

    def _take(self, kept: KeptVariables) -> None:
        """Give the clipper what is kept, which may have been loaded since; on the CPU as numbers, for its engines."""
        here = kept[STEP].device.type == "cpu"
        self._clipper.step = int(kept[STEP]) if here else kept[STEP].clone()
        self._clipper.memories.replace(
            {
                key_of(key): {name: value.tolist() if here else value.clone() for name, value in memory.items()}
                for key, memory in kept.memories().items()
            }
        )
        self._clipper.carried = {name: value.clone() for name, value in kept.carried(self._names).items()}


def as_tensor(value: Any) -> torch.Tensor:
    """What a threshold remembers as a tensor with an axis; the engines of the CPU have floats and arrays of NumPy."""
    tensor = torch.as_tensor(value, dtype=None if hasattr(value, "dtype") else torch.float64)
    return tensor.reshape(1) if tensor.ndim == 0 else tensor


def is_grad_of(gradient: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether the gradient is where PyTorch keeps that of the weight."""
    return weight.is_leaf and weight.grad is gradient


def dtype_of(tensor: torch.Tensor) -> str:
    """The name that Keras has for the type of a tensor."""
    return str(tensor.dtype).removeprefix("torch.")
