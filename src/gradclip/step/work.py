"""What a sweep is about: the gradients that it is for, what its thresholds read and remember, and its work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from gradclip.engines.base import Engine, Measure, UnsupportedGradient
from gradclip.rules.arrays import Array
from gradclip.rules.norm import RMS
from gradclip.rules.scope import Global, Group, Row, Tensor, rows_of
from gradclip.rules.segments import Segments, segments
from gradclip.rules.sweep import Phase, Sweep
from gradclip.rules.threshold import State
from gradclip.step.decide import combined, either
from gradclip.step.gradients import Gradients
from gradclip.step.memory import Memories, Owners
from gradclip.step.part import ALL, Part


class Terms(NamedTuple):
    """What a clipper decides by at one step.

    `memories` is None where no threshold adapts; `refuses` says that a step may be skipped or raise, so that nothing is
    written while it is measured; `tensors` that the norm of each tensor is wanted.
    """

    on_nonfinite: str
    step: Any
    memories: Memories | None
    refuses: bool
    tensors: bool


def nothing() -> None:
    return None


class Work(NamedTuple):
    """A part, the batch that it was measured from, whether it is written already, and what to do after writing."""

    part: Part
    batch: Any
    written: bool
    finish: Callable[[], None] = nothing


def broken_in(works: Sequence[Work], before: Any) -> Any:
    """Whether any element that the works measured is not finite, or was not `before`."""
    for work in works:
        before = either(work.part.measure, before)
    return before


def columns_of(phase: Phase, gradients: Gradients) -> list[tuple[int, Sweep, Gradients]]:
    """The sweeps of a phase with the gradients that each is for; those with nothing to do are left out."""
    if phase.names is None:
        return [(ALL, sweep, gradients) for sweep in phase.sweeps if sweep is not None]
    matches = [phase.names.match(gradients.name(i)) for i in range(len(gradients.tensors))]
    columns = []
    for column, sweep in enumerate(phase.sweeps):
        indices = [i for i, match in enumerate(matches) if match == column]
        if sweep is not None and indices:
            columns.append((column, sweep, gradients.only(indices)))
    return columns


def segments_of(sweep: Sweep, shapes: list[tuple[int, ...]], own: Gradients) -> list[Segments]:
    return [segments(one.scope, sweep.leaf, shapes, own.groups, isinstance(one.norm, RMS)) for one in sweep.stages]


def apart(sweep: Sweep) -> Sweep:
    """`sweep` with a measure for each tensor, which is what processes that share gradients can sum up."""
    for one in sweep.stages:
        if isinstance(one.scope, Row | Group) or isinstance(one.norm, RMS):
            raise ValueError(
                f"the gradients are shared among processes, and gradclip cannot sum up {one!r} over them: clip each "
                "tensor or all together, by a norm other than RMS"
            )
    return replace(sweep, apart=True)


def measured(engine: Engine, batch: Any, sweep: Sweep, tensors: int) -> tuple[Measure, Measure | None]:
    """The measure of a sweep; and that of each of so many `tensors`, of the same read, where only all are measured."""
    if not tensors or not isinstance(sweep.leaf, Global):
        return engine.measure(batch, sweep.leaf, sweep.norm), None
    each = engine.measure(batch, Tensor(), sweep.norm)
    whole, _ = combined(each, sweep.stages[0], Segments(1, [0] * tensors))
    return engine.in_floats(whole) if hasattr(engine, "in_floats") else whole, each


def weights_of(sweep: Sweep, own: Gradients, engine: Engine, shapes: Sequence[tuple[int, ...]]) -> Measure:
    """The measure of the parameters over the segments of their gradients, which have these `shapes`."""
    if own.weights is None:
        raise ValueError(f"the rule {sweep.stages!r} reads the weights, and this door was not given them")
    weights = engine.gather(own.weights())
    if isinstance(sweep.leaf, Row) and (whole := engine.shapes(weights, sweep.leaf)) != shapes:
        for index, (some, every) in enumerate(zip(map(rows_of, shapes), map(rows_of, whole), strict=True)):
            if some != every:
                raise UnsupportedGradient(
                    index, f"it has {some} of the {every} rows of its weight, as a sparse one has: make it dense"
                )
    return engine.measure(weights, sweep.leaf, sweep.norm)


def numbers_of(own: Gradients, measure: Measure) -> dict[str, Array]:
    """What was given beside the gradients, as arrays [1] of the kind that is decided in."""
    if not own.given:
        return {}
    xp = measure.xp
    return {
        name: xp.array([number], measure.total) if isinstance(number, float) else number
        for name, number in own.given.items()
    }


def recalled(
    key: tuple[int, int],
    sweep: Sweep,
    own: Gradients,
    shapes: Sequence[tuple[int, ...]],
    measure: Measure,
    terms: Terms,
) -> tuple[list[Owners], list[State]]:
    """For each stage whose its segments are, and what its threshold remembers of them."""
    count, memories = len(sweep.stages), terms.memories
    if memories is None:
        return [()] * count, [{}] * count
    groups, names = max(own.groups or [0]) + 1, lambda: list(map(own.name, range(len(own.tensors))))
    keys = [(*key, stage) for stage in range(count)]
    owners = [memories.owners(k, one, names, shapes, groups) for k, one in zip(keys, sweep.stages, strict=True)]
    pairs = zip(keys, owners, strict=True)
    return owners, [memories.state(k, live, measure.total, measure.xp) for k, live in pairs]
