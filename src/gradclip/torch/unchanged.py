"""Gradients that are as they were: the same tensors, and none was written since."""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch.optim import Optimizer

from gradclip.torch.parameters import here_of

States: TypeAlias = list[tuple[torch.Tensor, int]]
"""Gradients, each with the count of its changes."""


def states_of(optimizer: Optimizer) -> States:
    """The gradients of an optimizer, each with the count of its changes."""
    every = [p.grad for group in optimizer.param_groups for p in group["params"]]
    return [(g, 0 if g.is_inference() else _written(g)) for g in every if g is not None]


def _written(gradient: torch.Tensor) -> int:
    """How often a tensor was written; of a DTensor what is here is, and it does not count that itself."""
    return here_of(gradient)._version


def unchanged(optimizer: Optimizer, known: dict[int, States]) -> bool:
    """Whether the gradients of an optimizer are as they are `known`, which is forgotten."""
    before = known.pop(id(optimizer), None)
    if before is None or len(before) != len(now := states_of(optimizer)):
        return False
    return all(a is b and m == n for (a, m), (b, n) in zip(now, before, strict=True))
