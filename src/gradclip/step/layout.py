"""Laying out: what depends on the rule, and on the structure of the gradients that it meets, is worked out once.

The structure is looked at in each step, so far as the rule goes by it: the names, for patterns and for what thresholds
remember; the shapes, for rows and sizes; the groups. A layout is found by it, and another one is made where it is new.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import replace
from typing import Generic, TypeVar

from gradclip.engines.base import Batch, Engine, Tables, UnsupportedGradient
from gradclip.rules.norm import RMS
from gradclip.rules.response import RAISE, SKIP
from gradclip.rules.rule import AnyRule, Carry, Rule, Rules, rules_in
from gradclip.rules.scope import Global, Group, Row, rows_of
from gradclip.rules.segments import Segments, segments
from gradclip.rules.sweep import Phase, Sweep, phases_of
from gradclip.rules.threshold import SecondMoment, State, Step
from gradclip.step.gradients import Gradients, gathered, refused
from gradclip.step.memory import Key, Memories, Owners, owners_of
from gradclip.step.nonfinite import refuse_nonfinite
from gradclip.step.part import ALL, AS_MEASURED
from gradclip.step.policy import Policy

MOST = 16
"""Structures that are kept at once, of names or of shapes; beyond, the oldest is worked out anew."""

T = TypeVar("T")


class Layouts(Generic[T]):
    """Values by their keys. That of the step before is compared first: mostly it is made of the same objects, whose
    hashes take longer than that."""

    __slots__ = ("_key", "_store", "_value")

    def __init__(self) -> None:
        self._store: dict[Hashable, T] = {}
        self._key: Hashable = None
        self._value: T | None = None

    def of(self, key: Hashable, make: Callable[[], T]) -> T:
        """The value of `key`, or a new one."""
        if self._value is not None and key == self._key:
            return self._value
        found = self._store.get(key)
        if found is None:
            if len(self._store) >= MOST:
                del self._store[next(iter(self._store))]
            found = self._store[key] = make()
        self._key, self._value = key, found
        return found


class Names:
    """The names of gradients, asked for anew only where something else names them than in the step before."""

    __slots__ = ("_count", "_name", "_names")

    def __init__(self) -> None:
        self._name: Callable[[int], str] | None = None
        self._count = 0
        self._names: tuple[str, ...] = ()

    def of(self, gradients: Gradients) -> tuple[str, ...]:
        """The name of each gradient."""
        name, count = gradients.name, len(gradients.tensors)
        if name != self._name or count != self._count:
            self._name, self._count, self._names = name, count, gradients.names()
        return self._names


class Column:
    """A sweep of a phase and the gradients that it is for, by their `indices`; None for all.

    The engine keeps `tables` for the gradients, and `weight_tables` for the parameters.
    """

    __slots__ = (
        *("_as_measured", "_may_remember", "_names", "_no_owners", "_owners", "_remembers", "_segments"),
        *("blank", "indices", "key", "sweep", "tables", "weight_tables"),
    )

    def __init__(self, key: tuple[int, int], sweep: Sweep, indices: list[int] | None) -> None:
        self.key: tuple[int, int] = key
        self.sweep: Sweep = sweep
        self.indices: list[int] | None = indices
        self.tables: Tables = Tables()
        self.weight_tables: Tables = Tables()
        self._names = Names()
        self._segments = Layouts[list[Segments]]()
        self._owners = Layouts[list[Owners]]()
        self._as_measured = [AS_MEASURED] * len(sweep.stages)
        self.blank: list[State] = [{}] * len(sweep.stages)
        self._no_owners: list[Owners] = [()] * len(sweep.stages)
        self._remembers = [stage.threshold.adapts and not isinstance(stage.scope, Global) for stage in sweep.stages]
        self._may_remember = any(self._remembers)

    def only(self, gradients: Gradients) -> Gradients:
        """Those of the gradients that this is for."""
        return gradients if self.indices is None else gradients.only(self.indices)

    def segments(self, shapes: Sequence[tuple[int, ...]], gradients: Gradients) -> list[Segments]:
        """The segments of each stage, for gradients of these shapes as they were measured."""
        sweep, groups = self.sweep, gradients.groups
        if not sweep.reads_shapes:
            return self._as_measured
        key = tuple(shapes), None if groups is None else tuple(groups)
        return self._segments.of(
            key,
            lambda: [segments(s.scope, sweep.leaf, shapes, groups, isinstance(s.norm, RMS)) for s in sweep.stages],
        )

    def owners(self, shapes: Sequence[tuple[int, ...]], gradients: Gradients, memories: Memories) -> list[Owners]:
        """For each stage whose its segments are, if its threshold remembers something of each."""
        if not self._may_remember:
            return self._no_owners
        remembering = [may and memories.keeps((*self.key, stage)) for stage, may in enumerate(self._remembers)]
        if not any(remembering):
            return self._no_owners
        names, groups = self._names.of(gradients), max(gradients.groups or [0]) + 1
        return self._owners.of(
            (names, tuple(shapes), groups, *remembering),
            lambda: [
                owners_of(stage.scope, names, shapes, groups) if wanted else ()
                for wanted, stage in zip(remembering, self.sweep.stages, strict=True)
            ],
        )


class LineUp:
    """What the steps of a rule under a policy need to know of both, and the layouts of the gradients met so far.

    `apart` says that nothing but the coefficient of an element or a row depends on its measure. `remembered` has the
    names of what each threshold remembers, as far as it says them.
    """

    def __init__(self, rule: AnyRule, policy: Policy) -> None:
        rules = rules_in(rule)
        actions = {rule.response.action for rule in rules}
        self.rule: AnyRule = rule
        self.policy: Policy = policy
        self.phases: tuple[Phase, ...] = phases_of(rule)
        self.carries: bool = isinstance(rule, Carry)
        self.can_skip: bool = SKIP in actions or policy.skips
        self.can_raise: bool = RAISE in actions or policy.raises
        self.writes_zeros: bool = any(rule.response.can_be_zero for rule in rules) or policy.writes_zeros
        self.enlarges: bool = any(rule.response.enlarges for rule in rules)
        self.adapts: bool = any(rule.threshold.adapts for rule in rules)
        learns = any(rule.threshold.memory_rows() != {} for rule in rules)
        self.apart: bool = not (learns or self.carries or self.can_skip or self.can_raise or self._mixes_rows())
        self.reads_moments: bool = any(isinstance(rule.threshold, SecondMoment) for rule in rules)
        self.reads_given: frozenset[str] = frozenset().union(*(rule.threshold.reads_given for rule in rules))
        self.remembered: dict[Key, list[str]] = dict(_remembered(self.phases))
        self._fixed = [rule.threshold for rule in rules if not rule.threshold.adapts]
        self._late = [number for number, phase in enumerate(self.phases) if number or phase.writes_early]
        self._reads_names = any(phase.names is not None for phase in self.phases)
        self.tables: Tables = Tables()
        self._names = Names()
        self._columns = Layouts[list[list[Column]]]()
        self._plain = None if self._reads_names or self._late else self._columns_of_each((), None, 0)

    def rule_of(self, key: Key) -> Rule | None:
        """The rule whose memory has this key; None if there is none."""
        number, pattern, stage = key
        if not 0 <= number < len(self.phases):
            return None
        sweeps, named = self.phases[number].sweeps, self.phases[number].names is not None
        if not (0 <= pattern < len(sweeps) if named else pattern == ALL):
            return None
        sweep = sweeps[pattern if named else 0]
        return sweep.stages[stage] if sweep is not None and 0 <= stage < len(sweep.stages) else None

    def fits(self, key: Key, other: LineUp) -> bool:
        """Whether what another rule remembers under this key is what this one would: the same of the same norms."""
        mine, theirs = self.rule_of(key), other.rule_of(key)
        if mine is None or theirs is None or (mine.scope, mine.norm) != (theirs.scope, theirs.norm):
            return False
        kind, named = mine.threshold.kind_of_memory(), self.phases[key[0]].names
        alike = kind is not None and kind == theirs.threshold.kind_of_memory()
        return alike and _patterns(named) == _patterns(other.phases[key[0]].names)

    def _mixes_rows(self) -> bool:
        """Whether rows are measured for a stage that takes several together."""
        every = [sweep for phase in self.phases for sweep in phase.sweeps if sweep is not None]
        by_rows = [sweep for sweep in every if isinstance(sweep.leaf, Row)]
        return any(not isinstance(stage.scope, Row) for sweep in by_rows for stage in sweep.stages)

    def laid_out(self, gradients: Gradients, batch: Batch, engine: Engine, step: Step) -> list[list[Column]]:
        """For each phase its sweeps with the gradients that each is for; those with nothing to do are left out.

        Whatever could refuse after something was written refuses here.
        """
        across, apart = gradients.across, len(gradients.tensors) if gradients.apart else 0
        if self._plain is not None and across is None and not apart:
            return self._plain
        names = self._names.of(gradients) if self._reads_names else ()
        spread = None if across is None else (across.splits, across.others)
        found = self._columns.of((spread, apart, names), lambda: self._columns_of_each(names, spread, apart))
        if self._late:
            self._refuse_late(found, gradients, batch, engine, step)
        return found

    def _columns_of_each(
        self, names: tuple[str, ...], spread: tuple[bool, bool] | None, apart: int
    ) -> list[list[Column]]:
        return [list(_columns_of(number, phase, names, spread, apart)) for number, phase in enumerate(self.phases)]

    def _refuse_late(
        self, columns: list[list[Column]], gradients: Gradients, batch: Batch, engine: Engine, step: Step
    ) -> None:
        for threshold in self._fixed if isinstance(step, int) else ():
            threshold.bounds(step)
        for number in self._late:
            for column in columns[number]:
                _refuse_unfit(column, column.only(gradients), engine)
        if self.policy.raises:
            refuse_nonfinite(gradients, batch, engine, step)


def _patterns(names: Rules | None) -> list[str]:
    return [] if names is None else [pattern for pattern, _ in names.parts]


def _remembered(phases: Sequence[Phase]) -> Iterator[tuple[Key, list[str]]]:
    """What the threshold of each stage remembers, by its key; nothing of one that remembers nothing or does not say."""
    for number, phase in enumerate(phases):
        for place, sweep in enumerate(phase.sweeps):
            for position, stage in enumerate(() if sweep is None else sweep.stages):
                if names := stage.threshold.memory_rows():
                    yield (number, ALL if phase.names is None else place, position), list(names)


def _columns_of(
    number: int, phase: Phase, names: tuple[str, ...], spread: tuple[bool, bool] | None, apart: int
) -> Iterator[Column]:
    """The columns of a phase; one for each of so many tensors where these are to be `apart` and a sweep lets them.

    `spread` says whether processes split tensors, and whether they may have others, as `Across` does; None where there
    are none. Those that may have others wait for what is here of a pattern, even if that is nothing.
    """
    splits, others = spread or (False, False)
    matches = None if phase.names is None else list(map(phase.names.match, names))
    for place, sweep in enumerate(phase.sweeps):
        indices = None if matches is None else [i for i, match in enumerate(matches) if match == place]
        if sweep is None or (indices == [] and not others):
            continue
        key = number, ALL if indices is None else place
        if apart and _of_rows_alone(sweep):
            yield from (Column(key, sweep, [i]) for i in (range(apart) if indices is None else indices))
        else:
            yield Column(key, sweep if spread is None else _per_tensor(sweep, splits), indices)


def _of_rows_alone(sweep: Sweep) -> bool:
    """Whether rows are decided, and each tensor without the others and without a memory."""
    return isinstance(sweep.leaf, Row) and not any(
        isinstance(stage.scope, Global | Group) or stage.threshold.memory_rows() != {} for stage in sweep.stages
    )


def _per_tensor(sweep: Sweep, splits: bool) -> Sweep:
    """`sweep` with a measure for each tensor, which is what processes that share gradients can sum up."""
    spans = [stage for stage in sweep.stages if isinstance(stage.scope, Global | Group)]
    if not splits and not spans:
        return sweep
    for stage in sweep.stages:
        if isinstance(stage.scope, Row | Group) or isinstance(stage.norm, RMS):
            raise ValueError(
                f"the gradients are shared among processes, and gradclip cannot sum up {stage!r} over them: clip each "
                "tensor or all together, by a norm other than RMS"
            )
    return replace(sweep, per_tensor=True)


def gathered_weights(column: Column, gradients: Gradients, engine: Engine, shapes: Sequence[tuple[int, ...]]) -> Batch:
    """The batch of the parameters, whose segments are those of their gradients, which have these `shapes`."""
    sweep = column.sweep
    if gradients.weights is None:
        raise ValueError(f"the rule {sweep.stages!r} reads the weights, and this door was not given them")
    weights = engine.gather(gradients.weights(), column.weight_tables)
    if isinstance(sweep.leaf, Row) and (every_shape := engine.shapes(weights, sweep.leaf)) != shapes:
        for index, (some, every) in enumerate(zip(map(rows_of, shapes), map(rows_of, every_shape), strict=True)):
            if some != every:
                raise UnsupportedGradient(
                    index, f"it has {some} of the {every} rows of its weight, as a sparse one has: make it dense"
                )
    return weights


def _refuse_unfit(column: Column, gradients: Gradients, engine: Engine) -> None:
    """Refuse what has no order, no axis of rows, fewer rows than its weight or, where each element has a number of its
    own, is sparse."""
    sweep = column.sweep
    if not (sweep.elementwise or sweep.reads_weights or isinstance(sweep.leaf, Row)):
        return
    batch = gathered(engine, gradients, column.tables)
    try:
        if isinstance(sweep.stages[0].threshold, SecondMoment):
            for index, tensor in enumerate(gradients.tensors):
                engine.values.wide(tensor, index)
        if sweep.elementwise:
            engine.refuse_unordered(batch)
            return
        shapes = engine.shapes(batch, sweep.leaf)
        if sweep.reads_weights:
            gathered_weights(column, gradients, engine, shapes)
    except UnsupportedGradient as error:
        raise refused(gradients, error) from None
