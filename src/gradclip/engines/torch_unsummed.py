"""Gradients that are sums not done yet: what each process has is added up, to be measured.

A factor passes through a sum, so what is written are the parts, each by the same factor. Sequence parallelism leaves
the gradients of its norms so, and the optimizer adds them up.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.distributed.tensor import Partial

from gradclip.engines.torch_placement import Placed, Portion
from gradclip.engines.torch_ranks import Ranks, ranks_of_group

UNSUMMED = (
    "it is a sum over processes that is not done yet, and this rule looks at its elements: give .grad its "
    "redistribute() to Replicate() first, or clip it by a norm"
)


def sums_of(portions: Sequence[Portion], device: torch.device) -> dict[int, torch.Tensor]:
    """The sums of the portions that are not summed up yet, by their places: a message for each set and kind of sum."""
    kinds: dict[tuple[tuple[int, str], ...], list[int]] = {}
    for place, portion in enumerate(portions):
        if portion.placed.unsummed and portion.placed.coordinate is not None:
            kinds.setdefault(_kind(portion.placed), []).append(place)
    found: dict[int, torch.Tensor] = {}
    for places in kinds.values():
        found |= _added([(place, portions[place]) for place in places], device)
    return found


def _kind(placed: Placed) -> tuple[tuple[int, str], ...]:
    """What portions have alike that can be summed up in one message: over whom, how, and in which type."""
    assert placed.mesh is not None
    over = [(id(placed.mesh.get_group(i)), _how(placed, i)) for i in placed.unsummed]
    return (*over, (0, str(placed.dtype == torch.float64)))


def _how(placed: Placed, dimension: int) -> str:
    placement = placed.placements[dimension]
    assert isinstance(placement, Partial)
    return placement.reduce_op


def _added(portions: Sequence[tuple[int, Portion]], device: torch.device) -> dict[int, torch.Tensor]:
    (_, first), mesh = portions[0], portions[0][1].placed.mesh
    assert mesh is not None
    dtype = torch.float64 if first.placed.dtype == torch.float64 else torch.float32
    shapes = [portion.placed.local_shape for _, portion in portions]
    flat = [
        torch.zeros(shape, dtype=dtype, device=device).reshape(-1)
        if portion.local is None
        else portion.local.detach().to(dtype).reshape(-1)
        for (_, portion), shape in zip(portions, shapes, strict=True)
    ]
    whole = torch.cat(flat)
    for dimension in first.placed.unsummed:
        ranks: Ranks | None = ranks_of_group(mesh.get_group(dimension))
        if ranks is not None:
            whole = ranks.reduce_(whole, "sum")
        if _how(first.placed, dimension) == "avg":
            whole = whole / mesh.size(dimension)
    parts = torch.split(whole, [len(part) for part in flat])
    return {place: part.reshape(shape) for (place, _), part, shape in zip(portions, parts, shapes, strict=True)}
