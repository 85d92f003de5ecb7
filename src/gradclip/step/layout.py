"""Laying out: what depends on the rule, and on the structure of the gradients that it meets, is worked out once.

The structure is looked at in each step, so far as the rule goes by it: the names, for patterns and for what thresholds
remember; the shapes, for rows and sizes; the groups. A layout is found by it, and another one is made where it is new.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

from gradclip.engines.base import Batch, Engine, UnsupportedGradient
from gradclip.rules.norm import RMS
from gradclip.rules.response import RAISE, SKIP
from gradclip.rules.rule import AnyRule, Carry, rules_in
from gradclip.rules.scope import Global, Group, Row
from gradclip.rules.segments import Segments, segments
from gradclip.rules.sweep import Phase, Sweep, phases_of
from gradclip.rules.threshold import SecondMoment, State, Step
from gradclip.step.gradients import Gradients, gathered, refused
from gradclip.step.memory import Memories, Owners, owners_of
from gradclip.step.part import ALIKE, ALL
from gradclip.step.policy import Policy
from gradclip.step.respond import refuse_nonfinite

MOST = 16
"""Structures that are kept at once, of names or of shapes; beyond, the oldest is worked out anew."""

Made = TypeVar("Made")


def kept(store: dict[Hashable, Made], key: Hashable, make: Callable[[], Made]) -> Made:
    """What was made for `key`, or is made now."""
    found = store.get(key)
    if found is None:
        if len(store) >= MOST:
            del store[next(iter(store))]
        found = store[key] = make()
    return found


class Column:
    """A sweep of a phase and the gradients that it is for, by their `indices`; None for all."""

    __slots__ = ("_alike", "_nobody", "_owners", "_remembers", "_segments", "blank", "indices", "key", "sweep")

    def __init__(self, key: tuple[int, int], sweep: Sweep, indices: list[int] | None) -> None:
        self.key, self.sweep, self.indices = key, sweep, indices
        self._segments: dict[Hashable, list[Segments]] = {}
        self._owners: dict[Hashable, list[Owners]] = {}
        self._alike = [ALIKE] * len(sweep.stages)
        self.blank: list[State] = [{}] * len(sweep.stages)
        self._nobody: list[Owners] = [()] * len(sweep.stages)
        self._remembers = [one.threshold.adapts and not isinstance(one.scope, Global) for one in sweep.stages]

    def only(self, gradients: Gradients) -> Gradients:
        """Those of the gradients that this is for."""
        return gradients if self.indices is None else gradients.only(self.indices)

    def segments(self, shapes: Sequence[tuple[int, ...]], own: Gradients) -> list[Segments]:
        """The segments of each stage, for gradients of these shapes as they were measured."""
        sweep, groups = self.sweep, own.groups
        if not shapes:
            return self._alike
        key = tuple(shapes), None if groups is None else tuple(groups)
        return kept(
            self._segments,
            key,
            lambda: [segments(s.scope, sweep.leaf, shapes, groups, isinstance(s.norm, RMS)) for s in sweep.stages],
        )

    def owners(self, shapes: Sequence[tuple[int, ...]], own: Gradients, memories: Memories) -> list[Owners]:
        """For each stage whose its segments are, if its threshold remembers something of each."""
        if not any(self._remembers):
            return self._nobody
        asked = [may and memories.keeps((*self.key, stage)) for stage, may in enumerate(self._remembers)]
        if not any(asked):
            return self._nobody
        names, groups = own.names(), max(own.groups or [0]) + 1
        return kept(
            self._owners,
            (names, tuple(shapes), groups, *asked),
            lambda: [
                owners_of(one.scope, names, shapes, groups) if wanted else ()
                for wanted, one in zip(asked, self.sweep.stages, strict=True)
            ],
        )


class LineUp:
    """What the steps of a rule under a policy need to know of both, and the layouts of the gradients met so far."""

    def __init__(self, rule: AnyRule, policy: Policy) -> None:
        rules = rules_in(rule)
        actions = {one.response.action for one in rules}
        self.rule, self.policy = rule, policy
        self.phases = phases_of(rule)
        self.carries = isinstance(rule, Carry)
        self.can_skip = SKIP in actions or policy.skips
        self.can_raise = RAISE in actions or policy.raises
        self.writes_zeros = any(one.response.can_be_zero for one in rules) or policy.writes_zeros
        self.adapts = any(one.threshold.adapts for one in rules)
        self.reads_moments = any(isinstance(one.threshold, SecondMoment) for one in rules)
        self.reads_given = frozenset().union(*(one.threshold.reads_given for one in rules))
        self._fixed = [one.threshold for one in rules if not one.threshold.adapts]
        self._late = [number for number, phase in enumerate(self.phases) if number or phase.writes_early]
        self._reads_names = any(phase.names is not None for phase in self.phases)
        self._columns: dict[Hashable, list[list[Column]]] = {}

    def laid_out(self, gradients: Gradients, batch: Batch, engine: Engine, step: Step) -> list[list[Column]]:
        """For each phase its sweeps with the gradients that each is for; those with nothing to do are left out.

        Whatever could refuse after something was written refuses here.
        """
        shared = gradients.across is not None
        names = gradients.names() if self._reads_names else ()
        found = kept(self._columns, (shared, names), lambda: _columns_of_each(self.phases, names, shared))
        if self._late:
            self._refuse_late(found, gradients, batch, engine, step)
        return found

    def _refuse_late(
        self, columns: list[list[Column]], gradients: Gradients, batch: Batch, engine: Engine, step: Step
    ) -> None:
        for threshold in self._fixed if isinstance(step, int) else ():
            threshold.bounds(step)
        for number in self._late:
            for column in columns[number]:
                _refuse_unfit(column.sweep, column.only(gradients), engine)
        if self.policy.raises:
            refuse_nonfinite(gradients, batch, engine, step)


def _columns_of_each(phases: Sequence[Phase], names: tuple[str, ...], shared: bool) -> list[list[Column]]:
    return [list(_columns_of(number, phase, names, shared)) for number, phase in enumerate(phases)]


def _columns_of(number: int, phase: Phase, names: tuple[str, ...], shared: bool) -> Iterator[Column]:
    matches = None if phase.names is None else list(map(phase.names.match, names))
    for place, sweep in enumerate(phase.sweeps):
        indices = None if matches is None else [i for i, match in enumerate(matches) if match == place]
        if sweep is not None and (indices is None or indices):
            yield Column((number, ALL if indices is None else place), _apart(sweep) if shared else sweep, indices)


def _apart(sweep: Sweep) -> Sweep:
    """`sweep` with a measure for each tensor, which is what processes that share gradients can sum up."""
    for one in sweep.stages:
        if isinstance(one.scope, Row | Group) or isinstance(one.norm, RMS):
            raise ValueError(
                f"the gradients are shared among processes, and gradclip cannot sum up {one!r} over them: clip each "
                "tensor or all together, by a norm other than RMS"
            )
    return replace(sweep, per_tensor=True)


def _refuse_unfit(sweep: Sweep, own: Gradients, engine: Engine) -> None:
    """Refuse what has no order, no axis of rows or, where each element has a number of its own, is sparse."""
    if not (sweep.elementwise or isinstance(sweep.leaf, Row)):
        return
    batch = gathered(engine, own)
    try:
        if isinstance(sweep.stages[0].threshold, SecondMoment):
            for index, tensor in enumerate(own.tensors):
                engine.values.wide(tensor, index)
        if sweep.elementwise:
            engine.refuse_unordered(batch)
        else:
            engine.shapes(batch, sweep.leaf)
    except UnsupportedGradient as error:
        raise refused(own, error) from None
