"""Tensors that only other processes have: stages of a pipeline, and experts, each on its own processes.

A norm over all tensors adds theirs. What the processes of a group have alike counts once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cache
from typing import Any

import torch

from gradclip.engines.base import Across, Measure
from gradclip.engines.torch_functions import FUNCTIONS
from gradclip.engines.torch_ranks import Ranks, in_order, ranks_of_group
from gradclip.engines.torch_route import FLAGS, Lot, sent
from gradclip.engines.torch_units import as_array, as_tensor, at_scale, safe, scales_of
from gradclip.errors import shown
from gradclip.rules.arrays import Operand
from gradclip.rules.norm import Norm

UNMATCHED = (
    "no parameter has a name like {!r}, the key of groups=; the names are like {!r}: attach(..., model=model) or "
    "clip_(model) gives those of the model"
)
UNMATCHED_ELSEWHERE = (
    "another process has no parameter with a name like a key of groups=, and says which; nothing was written"
)


class SpreadOver:
    """Which parameters are spread over which processes, by patterns of their names, and all over those of a pipeline.

    `groups` has for each pattern the process group whose processes each have parameters of their own under such names;
    the first pattern that matches is the one. `pipeline` is the group of the stages, each of which has others.
    """

    def __init__(self, groups: Mapping[str, Any], pipeline: Any) -> None:
        self.groups: dict[str, Ranks | None] = {pattern: ranks_of_group(group) for pattern, group in groups.items()}
        self.pipeline: Ranks | None = None if pipeline is None else ranks_of_group(pipeline)
        known = {ranks.members: ranks for ranks in self.groups.values() if ranks is not None}
        self._sets = in_order(list(known.values()))

    def __deepcopy__(self, memo: Any) -> SpreadOver:
        return self  # a process group is one for all

    @property
    def every(self) -> list[Ranks]:
        """All sets of processes, in the order in which they are asked."""
        return self._sets if self.pipeline is None else [*self._sets, self.pipeline]

    def across(self, names: Sequence[str], doubles: bool, device: torch.device) -> Across:
        """How to sum up over these processes, for parameters of these names; all of them ask for it at once.

        `doubles` says that one here is float64: then all processes tell in which units their sums are. A pattern that
        matches no name is refused by all, for the experts would count as one.
        """
        unmatched = self._unmatched(names)
        said = torch.tensor([unmatched is not None, doubles], dtype=torch.float64, device=device)
        refused, scaled = as_tensor(self._in_any(said, "max")).tolist()
        if refused:
            raise ValueError(unmatched or UNMATCHED_ELSEWHERE)
        return self._across([self._of(name) for name in names], bool(scaled))

    def _across(self, own: Sequence[Ranks | None], scaled: bool) -> Across:
        @cache
        def at(indices: tuple[int, ...]) -> Across:
            return self._across([own[i] for i in indices], scaled)

        def some(indices: list[int]) -> Across:
            return at(tuple(indices))

        return Across(_as_it_is, self._in_any, together=_Together(self, own, scaled), splits=False, some=some)

    def has(self, name: str) -> bool:
        """Whether each process of a group has a parameter of its own under this name."""
        return self._of(name) is not None

    def _of(self, name: str) -> Ranks | None:
        return next((ranks for pattern, ranks in self.groups.items() if fnmatchcase(name, pattern)), None)

    def _unmatched(self, names: Sequence[str]) -> str | None:
        """What to say of a pattern that matches no name; nothing where there are none."""
        for pattern in self.groups if names else ():
            if not any(fnmatchcase(name, pattern) for name in names):
                return UNMATCHED.format(pattern, names[0])
        return None

    def _in_any(self, array: Operand, how: str) -> Operand:
        """A maximum over all processes: sums go through `together`."""
        assert how == "max"
        found = as_tensor(array).clone()
        for ranks in self.every:
            found = ranks.reduce_(found, how)
        return as_array(found, array)


def _as_it_is(array: Operand, how: str) -> Operand:
    return array


class _Together:
    """The measure of all tensors of all processes from that of each here."""

    def __init__(self, spread: SpreadOver, own: Sequence[Ranks | None], scaled: bool) -> None:
        self._spread, self._scaled = spread, scaled
        self._index = {
            ranks.members: [i for i, mine in enumerate(own) if mine is not None and mine.members == ranks.members]
            for ranks in spread._sets
        }
        self._rest = [i for i, mine in enumerate(own) if mine is None]

    def __call__(self, measure: Measure, norm: Norm) -> Measure:
        total: Operand = as_tensor(measure.total)
        scale: Operand = measure.scale
        if self._scaled or not isinstance(scale, float):
            scale = self._largest(scales_of(measure))
            total = at_scale(measure, norm, scale)
        lot = self._summed(Lot(total, as_tensor(measure.nonfinite), norm.combine))
        total, nonfinite, scale = (as_array(array, measure.total) for array in (lot.totals, lot.counts, scale))
        return Measure(total, nonfinite, measure.xp, scale)

    def _largest(self, scales: torch.Tensor) -> torch.Tensor:
        found = scales.amax(0, keepdim=True) if len(scales) else scales.new_zeros(1)
        for ranks in self._spread.every:
            found = ranks.reduce_(found, "max")
        return safe(found)

    def _summed(self, lot: Lot) -> Lot:
        sets, flags = self._spread._sets, lot.totals.new_zeros(FLAGS)
        found, rest = [], lot.chosen(FUNCTIONS.indices(self._rest, lot.totals)).as_one()
        for place, ranks in enumerate(sets):
            said = [lot.chosen(FUNCTIONS.indices(self._index[ranks.members], lot.totals)).as_one()]
            if place + 1 == len(sets):  # what all of them have alike comes from one, so that all have the same bits
                said.append(rest.from_one(torch.full_like(rest.counts, ranks.place == 0, dtype=torch.bool)))
            answers, _ = sent(ranks, said, flags, lot.how)
            found += answers
        whole = found[0] if found else rest
        for other in found[1:]:
            whole = whole.and_(other)
        whole = whole.as_one()
        if self._spread.pipeline is not None:
            (whole,), _ = sent(self._spread.pipeline, [whole], flags, lot.how)
        return whole


def checked_groups(groups: Any) -> dict[str, Any]:
    """`groups` as a dict of patterns, or the error that says what it is to be."""
    if groups is None:
        return {}
    if not isinstance(groups, Mapping) or not all(isinstance(pattern, str) for pattern in groups):
        raise TypeError(
            f"groups is a dict of patterns of names and process groups, {{'experts.*': group}}, got {shown(groups)}"
        )
    for group in groups.values():
        checked_group(group, "groups[...]")
    return dict(groups)


def checked_group(group: Any, name: str) -> Any:
    """`group` if it is a process group, or the error that says what it is to be."""
    if group is not None and not isinstance(group, torch.distributed.ProcessGroup):
        raise TypeError(f"{name} is a process group of torch.distributed, such as mesh.get_group(), got {shown(group)}")
    return group
