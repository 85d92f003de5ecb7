"""Gradients on several devices in one call: an engine on each measures and writes, and one device decides for all.

Only totals and coefficients travel, a number for each segment. Nothing waits for them, but where a device is the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from itertools import islice
from typing import NamedTuple

import torch

from gradclip.engines.base import Batch, Measure, Tables, placed_at
from gradclip.engines.torch import TorchEngine
from gradclip.engines.torch_functions import FUNCTIONS, wide_on
from gradclip.engines.torch_layout import DEVICE
from gradclip.engines.torch_measure import combined
from gradclip.engines.torch_stacks import alike, orders_of
from gradclip.rules.arrays import Operand
from gradclip.rules.norm import Norm
from gradclip.rules.response import Response
from gradclip.rules.scope import Element, Global, Row, Scope, Tensor, rows_of
from gradclip.rules.segments import Shape


class Share(NamedTuple):
    """The gradients of one device, by their places among all, as its engine has gathered them."""

    places: list[int]
    device: torch.device
    engine: TorchEngine
    batch: Batch

    def here(self, array: torch.Tensor) -> torch.Tensor:
        """An array on this device; on the CPU, which reads its memory at once, after it has come there."""
        return array.to(self.device, wide_on(self.device), non_blocking=self.device.type != "cpu")


class Spread(NamedTuple):
    """The gradients of a step, device by device; what is decided for all is on the first."""

    shares: list[Share]

    @property
    def places(self) -> list[int]:
        """The place of each tensor, device by device."""
        return [place for share in self.shares for place in share.places]

    def in_order(self, values: Sequence[Sequence[Shape]]) -> list[Shape]:
        """What each share has of its tensors, in the order of all."""
        found = dict(zip(self.places, (value for of_share in values for value in of_share), strict=True))
        return [found[place] for place in sorted(found)]


class DevicesEngine(TorchEngine):
    """Gradients on whatever devices, by the engine that `engine_on` has for each, which waits for it.

    `part_of` tells tensors apart: by their device.
    """

    def __init__(
        self,
        name: str,
        engine_on: Callable[[torch.device], TorchEngine],
        part_of: Callable[[torch.Tensor], Hashable] = DEVICE,
    ) -> None:
        super().__init__(waits=True)
        self.name = name
        self._engine_on, self._part_of = engine_on, part_of

    def gather(self, tensors: list[torch.Tensor], tables: Tables | None = None) -> Batch:
        shares = []
        for places in alike(map(self._part_of, tensors)):
            first = tensors[places[0]]
            device, part = first.device, self._part_of(first)
            engine, kept = self._engine_on(device), None if tables is None else tables.part(part)
            with placed_at(places):
                batch = engine.gather([tensors[place] for place in places], kept)
            shares.append(Share(places, device, engine, batch))
        return Spread(shares)

    def repeated(self, batch: Batch) -> set[int]:
        found = set()
        for share in batch.shares:
            with placed_at(share.places):
                found |= {share.places[index] for index in share.engine.repeated(share.batch)}
        return found

    def refuse_unordered(self, batch: Batch) -> None:
        for share in batch.shares:
            with placed_at(share.places):
                share.engine.refuse_unordered(share.batch)

    def measure(self, batch: Batch, scope: Scope, norm: Norm) -> Measure:
        found, home = [], batch.shares[0]
        for share in batch.shares:
            with placed_at(share.places):
                found.append(share.engine.measure(share.batch, scope, norm))
        total = torch.cat([home.here(measure.total) for measure in found])
        nonfinite = torch.cat([home.here(measure.nonfinite) for measure in found])
        scale: Operand = 1.0
        if not all(isinstance(measure.scale, float) for measure in found):
            scale = torch.cat([home.here(torch.ones_like(measure.total) * measure.scale) for measure in found])
        if isinstance(scope, Global):
            total, scale = combined(total, scale, norm)
            return Measure(total, nonfinite.sum(0, keepdim=True), FUNCTIONS, scale)
        order, _ = self._orders(batch, scope)
        scale = scale if isinstance(scale, float) else scale.index_select(0, order)
        return Measure(total.index_select(0, order), nonfinite.index_select(0, order), FUNCTIONS, scale)

    def apply_(
        self, batch: Batch, scope: Scope, coefficient: torch.Tensor, zeroes: bool = True, enlarges: bool = True
    ) -> None:
        for share, factors in zip(batch.shares, self._split(batch, scope, coefficient), strict=True):
            share.engine.apply_(share.batch, scope, share.here(factors), zeroes, enlarges)

    def map_(self, batch: Batch, response: Response, low: Operand, high: Operand) -> None:
        self.refuse_unordered(batch)
        lows, highs = (self._bounds(batch, bound) for bound in (low, high))
        for share, low, high in zip(batch.shares, lows, highs, strict=True):
            share.engine.map_(share.batch, response, low, high)

    def zero_nonfinite_(self, batch: Batch) -> None:
        for share in batch.shares:
            share.engine.zero_nonfinite_(share.batch)

    def shapes(self, batch: Batch, scope: Scope) -> list[Shape]:
        found = []
        for share in batch.shares:
            with placed_at(share.places):
                found.append(share.engine.shapes(share.batch, scope))
        spread: Spread = batch
        return spread.in_order(found)

    def holds_float64(self, batch: Batch) -> bool:
        return any(share.engine.holds_float64(share.batch) for share in batch.shares)

    def _sizes(self, batch: Spread, scope: Scope) -> list[int]:
        """The number of segments of each tensor, device by device."""
        if not isinstance(scope, Row):
            return [2 if isinstance(scope, Element) else 1] * len(batch.places)
        shapes = self.shapes(batch, scope)
        return [rows_of(shapes[place]) for place in batch.places]

    def _orders(self, batch: Spread, scope: Scope) -> tuple[torch.Tensor, torch.Tensor]:
        """How the segments of the devices are put in the order of all, and back."""
        return orders_of(tuple(batch.places), tuple(self._sizes(batch, scope)), batch.shares[0].device)

    def _split(self, batch: Spread, scope: Scope, values: torch.Tensor) -> Sequence[torch.Tensor]:
        """The values of segments, device by device and there; that of a `Global` segment is that of all."""
        shares = batch.shares
        if isinstance(scope, Global):
            return [share.here(values) for share in shares]
        (_, back), sizes = self._orders(batch, scope), iter(self._sizes(batch, scope))
        many = [sum(islice(sizes, len(share.places))) for share in shares]
        parts = torch.split(values.index_select(0, back), many)
        return [share.here(part) for share, part in zip(shares, parts, strict=True)]

    def _bounds(self, batch: Spread, bound: Operand) -> Sequence[Operand]:
        """A bound of all tensors or those of each, device by device."""
        if not isinstance(bound, torch.Tensor):
            return [bound] * len(batch.shares)
        return self._split(batch, Global() if bound.numel() == 1 else Tensor(), bound)
