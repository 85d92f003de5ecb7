"""What is taken down of a backward pass: the losses that it begins from, and whose gradients it changes."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch

from gradclip.watch.gradient_norms import GradientNorms, first_gradient
from gradclip.watch.journal import nothing
from gradclip.watch.shards import as_whole, is_sharded

Marks = list[tuple[int, int] | None]
"""Of each gradient what changes with it."""


class BackwardPass(NamedTuple):
    """A backward pass that has begun: the parameters of the optimizers, by `id`, those that will have missed it, the
    marks of each one's gradients before it, those that had gradients that their last step used, and the norms that it
    will have made."""

    known: dict[int, list[torch.Tensor]]
    missed: set[int]
    marks: dict[int, Marks]
    used: list[int]
    norms: dict[int, GradientNorms]


def losses_in(roots: Any, factors: Any = None) -> tuple[Any, ...]:
    """The tensors of one element among those that a backward pass starts from: numbers, or copies on a device.

    Each is multiplied by its factor, if it has one. What is not one number is no loss, but a gradient handed on.
    """
    tensors = [roots] if isinstance(roots, torch.Tensor) else list(roots)
    given = [factors] if factors is None or isinstance(factors, torch.Tensor) else list(factors)
    pairs = zip(tensors, [*given, *[None] * (len(tensors) - len(given))], strict=False)
    whole = [(as_whole(tensor), as_whole(factor)) for tensor, factor in pairs if tensor.numel() == 1]
    return tuple(number_in(tensor, factor) for tensor, factor in whole if tensor is not None)


def number_in(loss: torch.Tensor, factor: torch.Tensor | None) -> Any:
    """A loss times its factor: a number, or a copy on a device."""
    number = loss.detach() if factor is None else loss.detach() * factor.detach()
    return number.item() if number.device.type == "cpu" else number.clone()


def marks_of(parameters: Iterable[torch.Tensor]) -> Marks:
    """Which tensor each gradient is, and how often it was written; None where there is none."""
    every = (parameter.grad for parameter in parameters)
    return [None if g is None else (id(g), version_of(g)) for g in every]


def version_of(gradient: torch.Tensor) -> int:
    """How often a gradient was written; of one that was made in inference mode it is not counted."""
    return 0 if gradient.is_inference() else gradient._version


class UsedGradient:
    """The first of the gradients that a step used: what the next backward pass should not add to.

    Where it was zeroed in a way that is not counted, as `p.grad.data.zero_()`, its elements are looked at.
    """

    def __init__(self, parameters: Iterable[torch.Tensor]) -> None:
        first = first_gradient(parameters)
        self._gradient: Callable[[], torch.Tensor | None] = nothing if first is None else weakref.ref(first)
        self._version = 0 if first is None else version_of(first)

    def is_there(self, parameters: Iterable[torch.Tensor]) -> bool:
        """Whether it is the first gradient of `parameters` still, as it was and not of zeros."""
        gradient = self._gradient()
        if gradient is None or gradient is not first_gradient(parameters) or version_of(gradient) != self._version:
            return False
        return gradient.layout is torch.strided and not is_sharded(gradient) and bool(gradient.any())

    def added_to(self) -> None:
        """A backward pass has added to it."""
        gradient = self._gradient()
        self._version = self._version if gradient is None else version_of(gradient)
