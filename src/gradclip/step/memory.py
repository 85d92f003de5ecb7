"""What thresholds remember from step to step, each segment's part under the name of its tensor.

The gradients of a step may be those of some tensors only: an expert that no token reached has none. Its part waits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from gradclip.engines.base import Measure
from gradclip.rules.arrays import Array, ArrayFunctions, Operand
from gradclip.rules.scope import Global, Group, Row, Scope, rows_of
from gradclip.rules.threshold import State, Step

Key: TypeAlias = tuple[int, int, int]
"""Whose memory: the number of the phase, that of the pattern (`ALL` without patterns), and that of the stage."""

Shapes: TypeAlias = Sequence[tuple[int, ...]]

Owners: TypeAlias = tuple[tuple[str, int], ...]
"""Names with their number of segments, in the order of the segments; empty where they are not known or do not count."""


class Remembered(NamedTuple):
    """The memory of one threshold: arrays with the segments of `owners` on their last axis."""

    state: State
    owners: Owners = ()

    def of(self, live: Owners, like: Array, xp: ArrayFunctions) -> State:
        """The memory of the segments of `live`; what was never seen begins as zeros."""
        if live == self.owners or not (live and self.owners):
            return self.state
        return arranged(self.state, self.owners, live, like, xp, None)

    def after(self, state: State, live: Owners, like: Array, xp: ArrayFunctions) -> Remembered:
        """The memory when that of the segments of `live` has become `state`."""
        if live == self.owners or not (state and live and self.owners) or set(self.owners) <= set(live):
            return Remembered(state, live if state else ())
        every = (*self.owners, *(owner for owner in live if owner not in set(self.owners)))
        before = arranged(self.state, self.owners, every, like, xp, None)
        return Remembered(arranged(state, live, every, like, xp, before), every)


def arranged(
    state: State, owners: Owners, wanted: Owners, like: Array, xp: ArrayFunctions, other: State | None
) -> dict[str, Array]:
    """The arrays of `state` with the segments of `wanted`; where it has none, those of `other`, or zeros."""
    starts, start = {}, 0
    for owner in owners:
        starts[owner] = start
        start += owner[1]
    places = [starts[owner] + i if owner in starts else -1 for owner in wanted for i in range(owner[1])]
    index = xp.indices([max(place, 0) for place in places], like)
    missing = xp.array([float(place < 0) for place in places], like) > 0.0
    return {
        name: xp.where(missing, 0.0 if other is None else other[name], xp.take(value, index))
        for name, value in state.items()
    }


def owners_of(scope: Scope, names: Sequence[str], shapes: Shapes, groups: int) -> Owners:
    """Whose the segments of `scope` are; `shapes` are read for rows, `groups` is the number of parameter groups."""
    if isinstance(scope, Global):
        return ()
    if isinstance(scope, Group):
        return tuple((f"group {number}", 1) for number in range(groups))
    if isinstance(scope, Row):
        return tuple(zip(names, map(rows_of, shapes), strict=True))
    return tuple((name, 1) for name in names)


def uploaded(state: State, like: Array, xp: ArrayFunctions) -> State:
    """`state` with arrays of the engine for what was loaded as lists."""
    return {name: xp.array(value, like) if isinstance(value, list) else value for name, value in state.items()}


class Memories:
    """The memories of all thresholds of one rule."""

    def __init__(self) -> None:
        self._each: dict[Key, Remembered] = {}

    @property
    def states(self) -> dict[Key, State]:
        """What each threshold remembers."""
        return {key: memory.state for key, memory in self._each.items()}

    @states.setter
    def states(self, states: Mapping[Key, State]) -> None:
        self._each = {key: Remembered(state) for key, state in states.items()}

    def keep(self, fits: Callable[[Key], bool]) -> None:
        """Forget what is of other keys than those that fit."""
        self._each = {key: memory for key, memory in self._each.items() if fits(key)}

    def replace(self, states: Mapping[Key, State]) -> None:
        """Take other numbers of the same segments, for doors that keep them elsewhere."""
        self._each = {key: known._replace(state=states.get(key, known.state)) for key, known in self._each.items()}

    def keeps(self, key: Key) -> bool:
        """Whether a threshold has a memory, or may have one: no step was made yet."""
        known = self._each.get(key)
        return known is None or bool(known.state)

    def states_of(self, key: tuple[int, int], owners: Sequence[Owners], measure: Measure) -> list[State]:
        """What the threshold of each stage remembers of the segments of these owners."""
        return [self.state((*key, stage), live, measure.total, measure.xp) for stage, live in enumerate(owners)]

    def remember(
        self, key: tuple[int, int], owners: Sequence[Owners], states: Sequence[State], measure: Measure
    ) -> None:
        """Keep for the threshold of each stage what it learnt of the segments of these owners."""
        for stage, (live, state) in enumerate(zip(owners, states, strict=True)):
            self.learn((*key, stage), state, live, measure.total, measure.xp)

    def state(self, key: Key, live: Owners, like: Array, xp: ArrayFunctions) -> State:
        """The memory of one threshold; what was loaded as a list becomes an array like `like`."""
        known = self._each.get(key)
        if known is None:
            return {}
        if any(isinstance(value, list) for value in known.state.values()):
            known = self._each[key] = known._replace(state=uploaded(known.state, like, xp))
        return known.of(live, like, xp)

    def learn(self, key: Key, state: State, live: Owners, like: Array, xp: ArrayFunctions) -> None:
        """Keep `state` as what the threshold remembers of the segments of `live`."""
        self._each[key] = self._each.get(key, Remembered({}, live)).after(state, live, like, xp)

    def plain(self, to_host: Callable[[Array], Any]) -> dict[str, Any]:
        """All memories as dicts, lists, numbers and strings."""
        return {
            text_of(key): {
                "owners": [list(owner) for owner in memory.owners],
                "memory": {name: _listed(value, to_host) for name, value in memory.state.items()},
            }
            for key, memory in self._each.items()
            if memory.state
        }

    def load(self, data: Mapping[str, Any]) -> None:
        """Take up what became `plain`."""
        self._each = {
            key_of(text): Remembered(dict(saved["memory"]), tuple((name, count) for name, count in saved["owners"]))
            for text, saved in data.items()
        }


def _listed(value: Operand, to_host: Callable[[Array], Any]) -> Any:
    return value if isinstance(value, int | str | list) else to_host(value)


class Memory(NamedTuple):
    """What a clipper remembers from step to step.

    `thresholds` has the memory of each threshold that adapts, `carried` what a rule that carries over took away from
    each tensor and has not added yet.
    """

    step: Step
    thresholds: dict[Key, State]
    carried: dict[str, Operand] = {}  # noqa: RUF012  # of a named tuple, and never changed


def text_of(key: Sequence[int]) -> str:
    """A key as text, for what is saved."""
    return " ".join(map(str, key))


def key_of(text: str) -> Key:
    """The key that became this text."""
    phase, pattern, stage = map(int, text.split())
    return phase, pattern, stage
