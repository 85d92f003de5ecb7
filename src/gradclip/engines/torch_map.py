"""Elements of tensors mapped by their ratio to a bound, in PyTorch; see `Engine.map_`."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from gradclip.engines.torch_functions import FUNCTIONS, wide_of
from gradclip.engines.torch_stacks import Results, Stack, of_each, write_each_
from gradclip.rules.arrays import Operand
from gradclip.rules.response import Response


def clamp_(targets: Sequence[torch.Tensor], low: Operand, high: Operand, looks: bool) -> None:
    """Put each element between its bounds; who `looks` writes to none of the targets that has none outside."""
    places: Sequence[int] = range(len(targets))
    if looks:
        (outside,) = of_each(targets, lambda stack: _outside(stack, low, high))
        places = [place for place, some in enumerate(outside.tolist()) if some]
    if not places:
        return
    chosen = [targets[place] for place in places]
    torch._foreach_clamp_min_(chosen, _of(low, places, len(targets)))
    torch._foreach_clamp_max_(chosen, _of(high, places, len(targets)))


def bend_(targets: Sequence[torch.Tensor], response: Response, low: Operand, high: Operand) -> None:
    """Replace each finite element x by phi(|x| / t) x, t being the bound on its side."""

    def bend(stack: Stack) -> None:
        wide = stack.tensor.to(wide_of(stack.tensor))
        ratio = wide.abs() / torch.where(wide > 0, _beside(stack, high), -_beside(stack, low))
        coefficient: Operand = response.coefficient(ratio, FUNCTIONS)
        stack.tensor.copy_(torch.where(torch.isfinite(wide), wide * coefficient, wide))

    write_each_(targets, bend)


def _outside(stack: Stack, low: Operand, high: Operand) -> Results:
    outside = (stack.tensor < _beside(stack, low)) | (stack.tensor > _beside(stack, high))
    return (stack.flat(outside).any(dim=1, keepdim=True),)


def _of(bound: Operand, places: Sequence[int], count: int) -> Operand:
    """The bounds of those of `count` targets that are at `places`; one number is that of all."""
    if not isinstance(bound, torch.Tensor):
        return bound
    each = bound.expand(count).unbind()
    return [each[place] for place in places]


def _beside(stack: Stack, bound: Operand) -> Operand:
    """The bounds of a stack, from one for all tensors or an array of them, to be compared with its elements."""
    if not isinstance(bound, torch.Tensor) or bound.numel() == 1:
        return bound
    bounds = torch.stack([bound.unbind()[place] for place in stack.places])
    return bounds.reshape(-1, *[1] * (stack.tensor.dim() - 1))
