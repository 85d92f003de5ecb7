"""What is taken down of a backward pass: the losses that it begins from, and whose gradients it changes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch

from gradclip.watch.gradient_norms import SHARDED

Marks = list[tuple[int, int] | None]
"""Of each gradient what changes with it."""


class BackwardPass(NamedTuple):
    """A backward pass that has begun: the optimizers, by `id`, that will have missed it, and the marks of each one's
    gradients before it."""

    missed: set[int]
    marks: dict[int, Marks]


def losses_in(roots: Any, factors: Any = None) -> tuple[Any, ...]:
    """The tensors of one element among those that a backward pass starts from: numbers, or copies on a device.

    Each is multiplied by its factor, if it has one. What is not one number is no loss, but a gradient handed on.
    """
    tensors = [roots] if isinstance(roots, torch.Tensor) else list(roots)
    given = [factors] if factors is None or isinstance(factors, torch.Tensor) else list(factors)
    pairs = zip(tensors, [*given, *[None] * (len(tensors) - len(given))], strict=False)
    return tuple(
        number_in(tensor, factor)
        for tensor, factor in pairs
        if tensor.numel() == 1 and type(tensor).__name__ != SHARDED
    )


def number_in(loss: torch.Tensor, factor: torch.Tensor | None) -> Any:
    """A loss times its factor: a number, or a copy on a device."""
    number = loss.detach() if factor is None else loss.detach() * factor.detach()
    return number.item() if number.device.type == "cpu" else number.clone()


def marks_of(parameters: Iterable[torch.Tensor]) -> Marks:
    """Which tensor each gradient is, and how often it was written; None where there is none."""
    every = (parameter.grad for parameter in parameters)
    return [None if g is None else (id(g), 0 if g.is_inference() else g._version) for g in every]
