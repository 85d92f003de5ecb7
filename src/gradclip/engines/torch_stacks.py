"""Tensors of one shape side by side, so that one operation takes many of them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch

MOST_BYTES = 1 << 26
"""So many bytes are copied side by side at most; a tensor that is larger is alone, and not copied."""


class Stack(NamedTuple):
    """Tensors of one shape and dtype, by their places in a list, as one tensor [n, *shape].

    It is a view of a tensor that is alone, and else a copy.
    """

    places: list[int]
    tensor: torch.Tensor

    def flat(self, values: torch.Tensor) -> torch.Tensor:
        """Values of its elements as [n, elements]."""
        count = len(self.places)
        return values.reshape(count, values.numel() // count)

    @property
    def is_copy(self) -> bool:
        return len(self.places) > 1


def alike(keys: Iterable[Hashable]) -> Iterable[list[int]]:
    """The places of the keys that are equal, together."""
    found: dict[Hashable, list[int]] = {}
    for place, key in enumerate(keys):
        found.setdefault(key, []).append(place)
    return found.values()


def stacks(tensors: Sequence[torch.Tensor]) -> Iterator[Stack]:
    """The tensors in stacks, one made after the other."""
    for places in alike((tensor.shape, tensor.dtype) for tensor in tensors):
        most = max(1, MOST_BYTES // max(tensors[places[0]].nbytes, 1))
        for begin in range(0, len(places), most):
            some = places[begin : begin + most]
            yield Stack(some, _side_by_side([tensors[place] for place in some]))


def _side_by_side(tensors: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack(tensors) if len(tensors) > 1 else tensors[0].unsqueeze(0)


Results = tuple[torch.Tensor, ...]
"""Tensors [n, S], which say something of each of S segments of each of n tensors."""


def of_each(tensors: Sequence[torch.Tensor], function: Callable[[Stack], Results]) -> Results:
    """What `function` makes of stacks, each of its results as one tensor in the order of `tensors`."""
    found, places, sizes = [], list[int](), list[int]()
    for stack in stacks(tensors):
        results = function(stack)
        found.append([result.reshape(-1) for result in results])
        places += stack.places
        sizes += [results[0].shape[1]] * len(stack.places)
    joined = tuple(torch.cat(pieces) for pieces in zip(*found, strict=True))
    if len(found) == 1:
        return joined
    order, _ = orders_of(tuple(places), tuple(sizes), joined[0].device)
    return tuple(result.index_select(0, order) for result in joined)


@lru_cache(maxsize=64)
def orders_of(
    places: tuple[int, ...], sizes: tuple[int, ...], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """How the segments of tensors are put in their order, and back, where there are `sizes[i]` of tensor `places[i]`.

    Copied to the device once, because a copy waits.
    """
    each = np.empty(len(places), np.int64)
    starts = np.empty(len(places), np.int64)
    each[list(places)] = sizes
    starts[list(places)] = np.cumsum(sizes) - sizes
    ends = np.cumsum(each)
    order = np.repeat(starts, each) + np.arange(ends[-1]) - np.repeat(ends - each, each)
    return torch.from_numpy(order).to(device), torch.from_numpy(np.argsort(order)).to(device)


def write_each_(tensors: Sequence[torch.Tensor], function: Callable[[Stack], object]) -> None:
    """Let `function` write to stacks in place, and copy what it wrote to the tensors."""
    for stack in stacks(tensors):
        function(stack)
        if stack.is_copy:
            torch._foreach_copy_([tensors[place] for place in stack.places], stack.tensor.unbind())
