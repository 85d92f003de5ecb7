"""The engine of gradients whose parts are in several processes: another engine measures and writes what is here.

`measure` gives what this process has, and `reduce` makes it that of all, in one message to each set of processes. From
there on everybody has the same numbers, of whole tensors, and decides alike. A process takes part in these messages
with all parameters that it was given, whatever gradients it has.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from itertools import compress, repeat
from typing import Any, NamedTuple

import torch

from gradclip.engines.base import (
    Batch,
    Engine,
    LiesOtherwise,
    Measure,
    Measured,
    PartRefused,
    Tables,
    UnsupportedGradient,
    Values,
    placed_at,
)
from gradclip.engines.torch_placement import Placed, Portion
from gradclip.engines.torch_ranks import Ranks
from gradclip.engines.torch_route import FLAGS, Lot, Route, reduced
from gradclip.engines.torch_segments import Segmented
from gradclip.engines.torch_units import (
    as_array,
    as_tensor,
    at_scale,
    at_scale_1,
    in_range,
    safe,
    scales_of,
    spread_out,
)
from gradclip.engines.torch_unsummed import UNSUMMED, sums_of
from gradclip.rules.arrays import Array, Operand
from gradclip.rules.norm import Norm
from gradclip.rules.response import Response
from gradclip.rules.scope import Axes, Element, Global, Row, Scope, Tensor
from gradclip.rules.segments import Shape

REFUSED, MOVED, BEYOND = 0, 1, 2
"""What a message is flagged with: that this process refuses the step, that a gradient does not lie as all were told,
that a power left the range and is taken anew."""


REFUSED_ELSEWHERE = (
    "another process cannot clip one of the gradients of this step, and says which; so nothing was written here either"
)


class RefusedElsewhere(TypeError):
    """Another process refused a gradient of this step."""


MOVED_LATE = (
    "it lies otherwise than when this clipper first met it, which nobody may read on a device: make a new clipper"
)


class Portions(NamedTuple):
    """The gradients of a step as this process has them, which lie as `placed`.

    `batch` is what the inner engine gathered of those at `places`, to be written; of the others there is nothing here.
    `summed` is what it reads, of those at `read`: the same, and with the sums that were not done. `refusal` is what
    this process cannot clip, which it says when all have heard of it; `moved` is the place of a gradient that does not
    lie as its portion says.
    """

    placed: list[Placed]
    places: list[int]
    batch: Batch
    read: list[int]
    summed: Batch
    route: Route
    refusal: UnsupportedGradient | None
    moved: int | None

    def __len__(self) -> int:
        return len(self.placed)

    def refuse(self) -> None:
        """Raise what this process had to refuse, before anything is written."""
        if self.refusal is not None:
            raise self.refusal


class ShardedEngine(Engine):
    """Portions of gradients, by the engine `inner` for what is here; their numbers are on `device`.

    What is measured is reduced over the `sets` of processes. `apart` says that nothing but the coefficient of a segment
    depends on its measure: then elements, and rows of which no process has only a part, are left to those that have
    them. `beside` says that processes with tensors of their own wait for what is reduced.
    """

    reduces = True

    def __init__(
        self,
        inner: Engine,
        sets: Sequence[Ranks],
        device: torch.device,
        apart: bool = False,
        listeners: int = 0,
        beside: bool = False,
    ) -> None:
        self.inner, self.sets, self.device, self.apart, self.listeners = inner, sets, device, apart, listeners
        self.beside = beside
        self.name, self.waits, self.moves = inner.name, inner.waits, inner.moves
        self.clamps, self.xp = inner.clamps, inner.xp
        self.values = PortionValues(inner)

    def __reduce__(self) -> tuple[type[ShardedEngine], tuple[Engine, tuple[()], torch.device]]:
        """A copy reads the numbers of a result, and knows no other process."""
        return ShardedEngine, (self.inner, (), self.device)

    def owns(self, tensor: object) -> bool:
        return isinstance(tensor, Portion)

    def gather(self, tensors: list[Any], tables: Tables | None = None) -> Portions:
        kept = Tables() if tables is None else tables
        local, placed, moved = map(list, zip(*tensors, strict=True)) if tensors else ([], [], [])
        route, refusal = self._route(placed, kept), None
        sums = sums_of(tensors, self.device) if route.unsummed else {}
        here = list(compress(range(len(local)), map(operator.is_not, local, repeat(None))))
        try:
            batch, here = self._gathered(list(map(local.__getitem__, here)), here, kept.part("local"))
        except UnsupportedGradient as error:
            refusal = error
            batch, here = self._gathered([], [], Tables())
        read, summed = here, batch
        if sums:
            read = sorted({*here, *sums})
            summed, read = self._gathered([sums.get(place, local[place]) for place in read], read, kept.part("sums"))
        return Portions(placed, here, batch, read, summed, route, refusal, moved.index(True) if True in moved else None)

    def _gathered(self, local: list[torch.Tensor], places: list[int], tables: Tables) -> tuple[Batch, list[int]]:
        """The batch of what is here, each memory once, and whose it is; of nothing that of an empty tensor."""
        if not local:
            return self.inner.gather([torch.empty(0, device=self.device)]), []
        with placed_at(places):
            batch = self.inner.gather(local, tables)
            again = self.inner.repeated(batch) if len(local) > 1 else set()
        if not again:
            return batch, places
        kept = [i for i in range(len(places)) if i not in again]
        return self.inner.gather([local[i] for i in kept], tables), [places[i] for i in kept]

    def _route(self, placed: list[Placed], tables: Tables) -> Route:
        """The route for tensors that lie so: the one of the last step, if they lay alike."""
        known = tables.part("route")
        if not known or len(known[0]) != len(placed) or not all(map(operator.is_, known[0], placed)):
            known[:] = [placed, Route(placed, self.sets, self.device)]
        route: Route = known[1]
        return route

    def repeated(self, batch: Portions) -> set[int]:
        return set()  # of those here one was gathered

    def refuse_unordered(self, batch: Portions) -> None:
        with placed_at(batch.places):
            self.inner.refuse_unordered(batch.batch)
        if batch.route.unsummed:
            raise UnsupportedGradient(batch.route.unsummed[0], UNSUMMED)

    def measure(self, batch: Portions, scope: Scope, norm: Norm) -> Measure:
        """What is here; instead of all together each tensor, so that none counts twice."""
        scope = Tensor() if isinstance(scope, Global) else scope
        if isinstance(scope, Element):
            self.refuse_unordered(batch)
        with placed_at(batch.read):
            wanted = scope if batch.read or isinstance(scope, Element) else Tensor()  # an empty one has no rows
            found = self.inner.measure(batch.summed, wanted, norm)
        return self._among_all(batch, scope, found._replace(hard_clip=None))

    def _among_all(self, batch: Portions, scope: Scope, found: Measure) -> Measure:
        """A measure of what is here, with zeros for what is not."""
        segmented = self._segmented(batch, scope)
        index, count = segmented.here(batch.read), segmented.count
        if index is None:
            return found
        changed = {
            name: spread_out(value, index, count)
            for name, value in (("total", found.total), ("nonfinite", found.nonfinite), ("scale", found.scale))
            if not isinstance(value, float)
        }
        return found._replace(**changed)

    def _segmented(self, batch: Portions, scope: Scope) -> Segmented:
        """The segments of a scope, which the route of these portions keeps."""
        known, key = batch.route.segmented, (scope, self.apart)
        if key not in known:
            known[key] = Segmented(batch.placed, scope, self.unit_axis, self.apart, self.device)
        return known[key]

    def needs_others(self, batch: Portions, scope: Scope) -> bool:
        if isinstance(scope, Element):
            return not self.apart
        return not (isinstance(scope, Row) and self._segmented(batch, scope).keeps_rows)

    def reduce(self, measured: Sequence[Measured]) -> list[Measure]:
        """The measures over all processes, in one message to each set of them; in more where powers leave the range."""
        flags = torch.zeros(FLAGS, dtype=as_tensor(measured[0].measure.total).dtype, device=self.device)
        flags[REFUSED] = float(any(part.batch.refusal is not None for part in measured))
        flags[MOVED] = float(any(part.batch.moved is not None for part in measured))
        if self.waits and any(map(self._ranged, measured)):
            return self._in_units(measured, flags)
        flags[BEYOND] = float(not self.waits and not all(in_range(part.measure, part.norm) for part in measured))
        lots = [self._lot(part, at_scale_1(part.measure, part.norm)) for part in measured]
        found, heard = self._heard(measured, lots, flags)
        if not self.waits and bool(heard[BEYOND] > 0):
            return self._in_units(measured, flags)
        found = self._exact(measured, lots, found, flags)
        return [self._measure_of(part, lot, None) for part, lot in zip(measured, found, strict=True)]

    def _ranged(self, part: Measured) -> bool:
        """Whether powers may leave the range of a float, as all processes know of the gradients that they may have."""
        powers = part.norm.p not in (1.0, 2.0, math.inf)
        return not isinstance(part.scope, Element) and (powers or self.holds_float64(part.batch))

    def _in_units(self, measured: Sequence[Measured], flags: torch.Tensor) -> list[Measure]:
        """The same in units that all processes agree on before, which are the largest scale of each segment."""
        scales = [self._lot(part, scales_of(part.measure))._replace(how="max") for part in measured]
        agreed, _ = self._heard(measured, scales, flags)
        totals = [at_scale(part.measure, part.norm, lot.totals) for part, lot in zip(measured, agreed, strict=True)]
        lots = [self._lot(part, each) for part, each in zip(measured, totals, strict=True)]
        found, _ = self._heard(measured, lots, flags)
        return [
            self._measure_of(part, lot, scale.totals) for part, lot, scale in zip(measured, found, agreed, strict=True)
        ]

    def _lot(self, part: Measured, totals: torch.Tensor) -> Lot:
        """A measure as it travels."""
        scope = part.scope
        owners = self._segmented(part.batch, scope).owners if isinstance(scope, Element | Row) else None
        how = "max" if isinstance(scope, Element) else part.norm.combine
        counts = as_tensor(part.measure.nonfinite).to(totals.dtype)
        return Lot(totals, counts, how, owners, isinstance(scope, Global))

    def _heard(
        self, measured: Sequence[Measured], lots: Sequence[Lot], flags: torch.Tensor
    ) -> tuple[list[Lot], torch.Tensor]:
        """The lots over all processes and the flags; raises on all where one refuses, if it can be known."""
        found, heard = reduced(lots, [part.batch.route for part in measured], self.sets, flags)
        if not self.beside:
            _raise_own(measured, self.waits)
        refusing = [part.batch.refusal is not None for part in measured]
        if any(refusing):  # others wait for the totals: they keep their gradients, and this process raises then
            found = [
                lot._replace(totals=torch.full_like(lot.totals, math.nan)) if refuses else lot
                for lot, refuses in zip(found, refusing, strict=True)
            ]
        if not self.waits:
            if bool(heard[REFUSED] > 0) and not any(refusing):
                raise RefusedElsewhere(REFUSED_ELSEWHERE)
            if bool(heard[MOVED] > 0):
                raise LiesOtherwise
            return found, heard
        refused = heard[REFUSED] + heard[MOVED] > 0
        return [lot._replace(totals=lot.totals.masked_fill(refused, math.nan)) for lot in found], heard

    def _exact(
        self, measured: Sequence[Measured], lots: Sequence[Lot], found: list[Lot], flags: torch.Tensor
    ) -> list[Lot]:
        """`found` with counts that are sums where maxima travelled, if there are any and no device waits."""
        broken = [n for n, lot in enumerate(found) if lot.how == "max" and not self.waits and bool(lot.counts.any())]
        if not broken:
            return found
        counts = [lots[n]._replace(totals=torch.zeros_like(lots[n].totals), how="sum") for n in broken]
        summed, _ = reduced(counts, [measured[n].batch.route for n in broken], self.sets, flags)
        exact = dict(zip(broken, summed, strict=True))
        return [
            lot._replace(counts=torch.maximum(exact[n].counts, lot.counts)) if n in exact else lot
            for n, lot in enumerate(found)
        ]

    def _measure_of(self, part: Measured, lot: Lot, scale: torch.Tensor | None) -> Measure:
        """The measure that a lot has become, as the inner engine gives one; `scale` is what it is in units of."""
        measure = part.measure
        scaled: Operand = safe(torch.ones_like(lot.totals) if scale is None else scale) if self._ranged(part) else 1.0
        counts = torch.where(lot.totals.isfinite(), lot.counts, lot.counts.clamp(min=1.0))  # of a copy nobody counts
        total, nonfinite, scale_ = (as_array(array, measure.total) for array in (lot.totals, counts, scaled))
        found = Measure(total, nonfinite, measure.xp, scale_)
        return self.inner.in_floats(found) if isinstance(part.scope, Global) else found

    def apply_(
        self, batch: Portions, scope: Scope, coefficient: Operand, zeroes: bool = True, enlarges: bool = True
    ) -> None:
        batch.refuse()
        if batch.places:
            here = coefficient if isinstance(scope, Global) else self._here(batch, scope, coefficient)
            self.inner.apply_(batch.batch, scope, here, zeroes, enlarges)

    def _here(self, batch: Portions, scope: Scope, values: Operand) -> Operand:
        """Of the values of all segments those of what is here."""
        index = self._segmented(batch, scope).here(batch.places)
        if index is None or isinstance(values, float):
            return values
        return as_array(as_tensor(values).index_select(0, index), values)

    def map_(self, batch: Portions, response: Response, low: Operand, high: Operand) -> None:
        batch.refuse()
        self.refuse_unordered(batch)
        if batch.places:
            low, high = (self._bound(batch, bound) for bound in (low, high))
            self.inner.map_(batch.batch, response, low, high)

    def _bound(self, batch: Portions, bound: Operand) -> Operand:
        """A bound of all tensors as it is, and of those that each has its own those of what is here."""
        alike = isinstance(bound, float | int) or len(bound) != len(batch)
        return bound if alike else self._here(batch, Tensor(), bound)

    def clamp_(self, batch: Portions, low: Operand, high: Operand) -> Measure:
        batch.refuse()
        self.refuse_unordered(batch)
        with placed_at(batch.places):
            return self._among_all(batch, Element(), self.inner.clamp_(batch.batch, low, high))

    def zero_nonfinite_(self, batch: Portions) -> None:
        batch.refuse()
        self.refuse_unordered(batch)
        if batch.places:
            self.inner.zero_nonfinite_(batch.batch)

    def unit_axis(self, shape: Shape) -> Axes:
        return self.inner.unit_axis(shape)

    def shapes(self, batch: Portions, scope: Scope) -> list[Shape]:
        return self._segmented(batch, scope).shapes

    def holds_float64(self, batch: Portions) -> bool:
        return batch.route.holds_float64

    def to_host(self, array: Operand) -> list[float]:
        return self.inner.to_host(array)

    def on_host(self, arrays: Sequence[Operand]) -> Sequence[Array]:
        return self.inner.on_host(arrays)

    def in_arrays(self, measure: Measure) -> Measure:
        return self.inner.in_arrays(measure)

    def in_floats(self, measure: Measure) -> Measure:
        return self.inner.in_floats(measure)


class PortionValues(Values):
    """`Values` for portions: what is here, by those of another engine; None for a gradient of which nothing is."""

    def __init__(self, inner: Engine) -> None:
        self._inner = inner.values

    def zeros(self, value: Operand, /) -> Operand:
        return self._inner.zeros(value)

    def beside(self, saved: Operand, value: Operand, /) -> Operand:
        return self._inner.beside(saved, value)

    def where(self, flag: Operand, then: Operand, other: Operand, /) -> Operand:
        return self._inner.where(flag, then, other)

    def wide(self, tensor: Portion, index: int, /) -> Operand:
        if tensor.placed.unsummed:
            raise UnsupportedGradient(index, UNSUMMED)
        return None if tensor.local is None else self._inner.wide(tensor.local, index)

    def tensor(self, value: Operand, like: Portion, /) -> Portion:
        return like._replace(local=None if value is None else self._inner.tensor(value, like.local))

    def put_(self, tensor: Portion, source: Portion, /) -> None:
        if tensor.local is not None:
            self._inner.put_(tensor.local, source.local)


def _raise_own(measured: Sequence[Measured], waits: bool) -> None:
    """Raise what this process refused."""
    for place, part in enumerate(measured):
        if waits and part.batch.moved is not None:
            raise PartRefused(UnsupportedGradient(part.batch.moved, MOVED_LATE), place)
        if part.batch.refusal is not None:
            raise PartRefused(part.batch.refusal, place)
