"""Over whom the measures of a step are summed up, so that each element of a gradient counts once.

Every tensor has the set of processes that its mesh has: shards add up there, and of copies the first one counts. What a
smaller set has summed up, and what all processes have alike, goes through the largest set once more, from one process:
so all of them decide by the same bits, and hear of a copy that is broken elsewhere. A message has a place for every
tensor that a process may have, and nothing else, so that no process waits for one that has no gradient.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh

from gradclip.engines.torch_placement import Placed, members_of
from gradclip.engines.torch_ranks import Ranks
from gradclip.engines.torch_segments import Segmented
from gradclip.rules.scope import Scope

FLAGS = 3
"""The numbers that each message begins with: how many processes have something to say that all have to hear."""
NAN = 2.0**52
"""What a NaN adds to its count on the way through a maximum, which may lose the NaN itself."""


class Lot(NamedTuple):
    """What was measured: totals and counts [S] that combine by `how`.

    `owners` [S] has the tensor of each segment, None where there is one for each; `together` asks for one of all.
    """

    totals: torch.Tensor
    counts: torch.Tensor
    how: str
    owners: torch.Tensor | None = None
    together: bool = False

    def chosen(self, index: torch.Tensor) -> Lot:
        """The segments at `index`."""
        owners = None if self.owners is None else self.owners[index]
        return self._replace(totals=self.totals[index], counts=self.counts[index], owners=owners)

    def from_one(self, counted: torch.Tensor) -> Lot:
        """What this process says of each: what it has where it is the one to count it, else whether that is broken.

        The maximum of copies is that of one.
        """
        if self.how == "max":
            return self
        totals = torch.where(counted, self.totals, self.totals.masked_fill(self.totals.isfinite(), 0.0))
        return self._replace(totals=totals, counts=self.counts.masked_fill(~counted, 0.0))

    def as_one(self) -> Lot:
        """All segments together; nothing where there are none."""
        if not len(self.totals):
            return self._replace(totals=self.totals.new_zeros(1), counts=self.counts.new_zeros(1), owners=None)
        totals = self.totals.sum(0, keepdim=True) if self.how == "sum" else self.totals.amax(0, keepdim=True)
        return self._replace(totals=totals, counts=self.counts.sum(0, keepdim=True), owners=None)

    def and_(self, other: Lot) -> Lot:
        """The segments of both."""
        return self._replace(
            totals=torch.cat([self.totals, other.totals]), counts=torch.cat([self.counts, other.counts])
        )

    @property
    def message(self) -> list[torch.Tensor]:
        if self.how == "sum":
            return [self.totals, self.counts]
        lost = self.totals.isnan()
        return [self.totals.masked_fill(lost, 0.0), self.counts + NAN * lost]

    def heard(self, totals: torch.Tensor, counts: torch.Tensor) -> Lot:
        """The lot after its message came back."""
        if self.how == "max":
            lost = counts >= NAN
            totals, counts = totals.masked_fill(lost, math.nan), counts - NAN * lost
        return self._replace(totals=totals, counts=counts)


class Stop(NamedTuple):
    """A set of processes on the way of the tensors at `where`, None for all.

    `counted` says which of them this process counts, None for all. `begins` are those of them that were nowhere before,
    None for all; `after` are earlier sets whose sums go on here, each with whether this process speaks for it.
    """

    where: torch.Tensor | None
    counted: torch.Tensor | None
    begins: torch.Tensor | None
    after: Mapping[Ranks, bool]


class Route:
    """The way of each tensor of a list through `sets` of processes, and what else is known of such a list.

    `unsummed` are the places of tensors that are still to be summed up; `segmented` are their segments, by scopes.
    """

    def __init__(self, placed: Sequence[Placed], sets: Sequence[Ranks], device: torch.device) -> None:
        self.tensors, self.device = len(placed), device
        self._placed = placed
        self.unsummed = [i for i, one in enumerate(placed) if one.unsummed]
        self.holds_float64 = any(one.dtype in (torch.float64, torch.complex128) for one in placed)
        self.segmented: dict[tuple[Scope, bool], Segmented] = {}
        ways = {mesh: _way(mesh, sets) for mesh in {one.mesh for one in placed}}
        self._own = [ways[one.mesh][0] for one in placed]
        self._last = [ways[one.mesh][0 if one.own else 1] for one in placed]
        self.stops = {ranks: stop for ranks in sets if (stop := self._stop(ranks)) is not None}
        passed = {ranks for stop in self.stops.values() for ranks in stop.after}
        self._ends = [ranks for ranks in self.stops if ranks not in passed]
        self._alone = self._at([i for i, last in enumerate(self._last) if last is None])
        self._found: dict[tuple[int, int], torch.Tensor] = {}

    def _stop(self, ranks: Ranks) -> Stop | None:
        """What comes to a set, if anything does."""
        pairs = zip(self._own, self._last, strict=True)
        here = [i for i, (own, last) in enumerate(pairs) if own is ranks or last is ranks]
        if not here:
            return None
        own = [self._own[i] for i in here]
        speaks = [_speaks(self._placed[i], ranks) for i in here]
        counted = [
            self._placed[i].counts if mine is ranks else speaks_for
            for i, mine, speaks_for in zip(here, own, speaks, strict=True)
        ]
        begins = [place for place, mine in enumerate(own) if mine is ranks or mine is None]
        return Stop(
            None if len(here) == self.tensors else self._at(here),
            None if all(counted) else torch.tensor(counted, device=self.device),
            None if len(begins) == len(here) else self._at(begins),
            {mine: spoken for mine, spoken in zip(own, speaks, strict=True) if mine is not None and mine is not ranks},
        )

    def _at(self, places: list[int]) -> torch.Tensor:
        return torch.tensor(places, dtype=torch.int64, device=self.device)

    def said(self, stop: Stop, lot: Lot, sums: Mapping[Ranks, Lot]) -> Lot:
        """What this process says of a lot at a stop; `sums` are what earlier sets have made of it."""
        chosen = lot if stop.where is None else lot.chosen(self._segments(stop, lot))
        if stop.counted is not None:
            chosen = chosen.from_one(self._counted(stop, chosen))
        if not lot.together:
            return chosen
        together = (chosen if stop.begins is None else chosen.chosen(stop.begins)).as_one()
        for ranks, speaks in stop.after.items():
            before = sums[ranks]
            together = together.and_(before.from_one(torch.full_like(before.counts, speaks, dtype=torch.bool)))
        return together.as_one()

    def _counted(self, stop: Stop, chosen: Lot) -> torch.Tensor:
        """Which of the segments at a stop this process counts."""
        assert stop.counted is not None
        if chosen.owners is None:
            return stop.counted
        of_tensor = torch.zeros(self.tensors, dtype=torch.bool, device=self.device)
        of_tensor[slice(None) if stop.where is None else stop.where] = stop.counted
        return of_tensor[chosen.owners]

    def _segments(self, stop: Stop, lot: Lot) -> torch.Tensor:
        """The places of the segments of a lot whose tensors come to a stop."""
        assert stop.where is not None
        if lot.owners is None:
            return stop.where
        key = id(stop.where), id(lot.owners)  # both are kept: the one here, the other with the segments
        if key not in self._found:
            comes = torch.zeros(self.tensors, dtype=torch.bool, device=self.device).index_fill_(0, stop.where, True)
            self._found[key] = comes[lot.owners].nonzero().reshape(-1)
        return self._found[key]

    def heard(self, stop: Stop, lot: Lot, answer: Lot) -> Lot:
        """A lot with the answer of a set."""
        if stop.where is None:
            return answer
        index = self._segments(stop, lot)
        return lot._replace(
            totals=lot.totals.index_copy(0, index, answer.totals), counts=lot.counts.index_copy(0, index, answer.counts)
        )

    def whole(self, lot: Lot, sums: Mapping[Ranks, Lot]) -> Lot:
        """All tensors together: what comes out of the last sets, and what no set has."""
        found = lot.chosen(self._alone)
        for ranks in self._ends:
            found = found.and_(sums[ranks])
        return found.as_one()


def _way(mesh: DeviceMesh | None, sets: Sequence[Ranks]) -> tuple[Ranks | None, Ranks | None]:
    """The set of a mesh, if this process is in it and not alone there; and the largest one with all of its processes,
    where what was summed up goes once more. Plain tensors have no mesh, and all processes have them."""
    members = () if mesh is None else members_of(mesh)
    inside = mesh is not None and mesh.get_coordinate() is not None
    own = next((ranks for ranks in sets if inside and ranks.members == members), None)
    within = [ranks for ranks in sets if set(members) <= set(ranks.members)]
    return own, within[-1] if within else own


def _speaks(placed: Placed, ranks: Ranks) -> bool:
    """Whether this process speaks for a tensor that others of the set have as well, or do not have."""
    speaker = ranks.members[0] if placed.speaker is None else placed.speaker
    return speaker == dist.get_rank()


def reduced(
    lots: Sequence[Lot], routes: Sequence[Route], sets: Sequence[Ranks], flags: torch.Tensor
) -> tuple[list[Lot], torch.Tensor]:
    """The lots, each by its route, over all processes, and the flags summed up.

    One message to each set for those that combine by sums, and one for those that combine by maxima.
    """
    found, sums = list(lots), [dict[Ranks, Lot]() for _ in lots]
    for ranks in sets:
        for how in dict.fromkeys(lot.how for lot in lots):
            of = [n for n, route in enumerate(routes) if lots[n].how == how and ranks in route.stops]
            stops = [routes[n].stops[ranks] for n in of]
            said = [routes[n].said(stop, found[n], sums[n]) for n, stop in zip(of, stops, strict=True)]
            answers, flags = sent(ranks, said, flags, how) if of else ([], flags)
            for n, stop, answer in zip(of, stops, answers, strict=True):
                if lots[n].together:
                    sums[n][ranks] = answer
                else:
                    found[n] = routes[n].heard(stop, found[n], answer)
    whole = [
        route.whole(lot, known) if lot.together else lot for route, lot, known in zip(routes, found, sums, strict=True)
    ]
    return whole, flags


def sent(ranks: Ranks, lots: Sequence[Lot], flags: torch.Tensor, how: str) -> tuple[list[Lot], torch.Tensor]:
    """The lots, which combine by `how`, and the flags as a set of processes has them."""
    parts = [flags, *(part for lot in lots for part in lot.message)]
    heard = torch.split(ranks.reduce_(torch.cat(parts), how), [len(part) for part in parts])
    answers = [lot.heard(*heard[1 + 2 * n : 3 + 2 * n]) for n, lot in enumerate(lots)]
    return answers, heard[0]
