"""Products of tensors and coefficients in PyTorch: one operation for all tensors, and some for each shape of rows.

On a device nothing is looked at: all are multiplied, by 1 where there is nothing to do. On the CPU, where looking costs
nothing, what keeps 1 is not written.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from gradclip.engines.base import Kept, along, around
from gradclip.engines.torch_functions import wide_of
from gradclip.engines.torch_stacks import Stack, alike, write_each_


def scale_on_device_(targets: Sequence[torch.Tensor], factors: Sequence[torch.Tensor], zeroes: bool) -> None:
    """Multiply each target by its factor, without looking.

    A factor with an axis takes part in the promotion, as does one without for a target without, so the product is made
    in its wide type; a number of the target's type would have lost what a bfloat16 or a denormal has no digits for.
    """
    torch._foreach_mul_(list(targets), list(factors))
    if zeroes:  # 0 * inf is NaN
        write_each_(targets, lambda stack: _zero_where(stack, factors))


def _zero_where(stack: Stack, factors: Sequence[torch.Tensor]) -> None:
    factor = torch.stack([factors[place] for place in stack.places])
    lacking = stack.tensor.dim() - factor.dim()
    stack.tensor.masked_fill_(factor.reshape(*factor.shape, *[1] * lacking) == 0.0, 0.0)


def factors_of(coefficient: torch.Tensor, targets: Sequence[torch.Tensor], together: bool) -> Sequence[torch.Tensor]:
    """The coefficient of each target: one for all `together`, or one for each."""
    count = len(targets)
    each = [coefficient] * count if together else coefficient.split(1)
    if all(target.dim() for target in targets):
        return each
    points = [coefficient[0]] * count if together else coefficient.unbind()
    return [one if target.dim() else point for one, point, target in zip(each, points, targets, strict=True)]


def row_factors(
    coefficient: torch.Tensor,
    tensors: Sequence[torch.Tensor],
    targets: Sequence[torch.Tensor],
    axes: Sequence[Kept | None],
) -> list[torch.Tensor]:
    """The coefficients of the rows of each target, which holds each place of the memory of its tensor once."""
    sizes = [around(tensor.shape, kept)[1] for tensor, kept in zip(tensors, axes, strict=True)]
    pieces = torch.split(coefficient, sizes)
    found: dict[int, torch.Tensor] = {}
    keys = ((tensor.shape, target.shape, target.dtype) for tensor, target in zip(tensors, targets, strict=True))
    for places in alike(keys):
        tensor, target, kept = tensors[places[0]], targets[places[0]], axes[places[0]]
        factors = torch.stack([pieces[place] for place in places]).reshape(len(places), *along(tensor.shape, kept))
        if target.shape != tensor.shape:
            factors = factors[(slice(None), *map(slice, target.shape))]
        factors = factors.unsqueeze(-1) if target.is_complex() else factors
        found.update(zip(places, factors.unbind(), strict=True))
    return [found[place] for place in range(len(targets))]


def scale_where_needed_(targets: Sequence[torch.Tensor], values: Sequence[float]) -> None:
    """Multiply each target by its number on the host, but for those that keep 1.

    One after the other: `_foreach_mul_` rounds the numbers to the type of the targets, as `mul_` does not.
    """
    for target, value in zip(targets, values, strict=True):
        if value == 0.0:
            target.zero_()
        elif target.dtype is not torch.float64 and not 1e-30 < value < 1e30:
            target.copy_(target.double() * value)
        elif value != 1.0:
            target.mul_(value)


def scale_rows_where_needed_(target: torch.Tensor, factor: torch.Tensor, kept: Kept) -> None:
    """Multiply the rows of a target, which lie along the axes `kept`, but for those that keep 1."""
    front = tuple(range(len(kept)))
    target, factor = target.movedim(kept, front), factor.movedim(kept, front)
    changed = (factor != 1.0).reshape(factor.shape[: len(kept)]).nonzero(as_tuple=True)
    if changed[0].numel():
        part, factors = target[changed], factor[changed]
        product = part.to(wide_of(part)) * factors
        target[changed] = torch.where(factors == 0.0, 0.0, product).to(target.dtype)
