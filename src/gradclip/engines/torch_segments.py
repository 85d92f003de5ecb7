"""The segments of whole tensors, and which of them a process has a part of."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import accumulate

import torch

from gradclip.engines.base import row_axes, rows_first
from gradclip.engines.torch_placement import Placed
from gradclip.rules.scope import Axes, Element, Row, Scope
from gradclip.rules.segments import Shape


class Segmented:
    """The segments of `scope` of tensors that lie as `placed`; worked out once.

    Where a process may decide on what it has `apart`, and none has only a part of a row, rows are those that it has.
    """

    def __init__(
        self,
        placed: Sequence[Placed],
        scope: Scope,
        unit_axis: Callable[[Shape], Axes],
        apart: bool,
        device: torch.device,
    ) -> None:
        self._placed, self._device = placed, device
        self._by_rows = isinstance(scope, Row)
        self._axes = row_axes(scope, [one.shape for one in placed], unit_axis)
        cut = any(one.cuts(kept) for one, kept in zip(placed, self._axes, strict=True))
        self.keeps_rows = apart and self._by_rows and not cut
        self.sizes = self._rows() if self._by_rows else [2 if isinstance(scope, Element) else 1] * len(placed)
        self.count = sum(self.sizes)
        self._found: dict[tuple[int, ...], torch.Tensor] = {}

    def _rows(self) -> list[int]:
        """The number of rows of each tensor."""
        pairs = zip(self._placed, self._axes, strict=True)
        if self.keeps_rows:
            return [len(one.rows(kept)) for one, kept in pairs]
        return [math.prod(one.shape[axis] for axis in kept or ()) for one, kept in pairs]

    @cached_property
    def shapes(self) -> list[Shape]:
        """The shapes of the tensors with their rows in front."""
        shapes = [one.local_shape if self.keeps_rows else one.shape for one in self._placed]
        return rows_first(shapes, self._axes)

    @cached_property
    def owners(self) -> torch.Tensor:
        """The tensor of each segment."""
        return torch.repeat_interleave(torch.tensor(self.sizes, dtype=torch.int64)).to(self._device)

    def here(self, places: Sequence[int]) -> torch.Tensor | None:
        """Where the segments here of the tensors at `places` are among all; None where they are all."""
        if len(places) == len(self._placed) and (self.keeps_rows or not self._by_rows):
            return None
        key = tuple(places)
        if key not in self._found:
            self._found[key] = self._at(places).to(self._device)
        return self._found[key]

    def _at(self, places: Sequence[int]) -> torch.Tensor:
        starts = [0, *accumulate(self.sizes)]
        found = [starts[place] + self._of(place) for place in places]
        return torch.cat([torch.empty(0, dtype=torch.int64), *found])

    def _of(self, place: int) -> torch.Tensor:
        """The numbers of the segments of a tensor that this process has."""
        if self._by_rows and not self.keeps_rows:
            return self._placed[place].rows(self._axes[place])
        return torch.arange(self.sizes[place])
