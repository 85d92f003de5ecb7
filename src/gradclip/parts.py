"""What a sweep is about: the gradients that it is for, gathered, what its thresholds read beside them, and its work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from gradclip.decide import combined, either, sides
from gradclip.engines.base import Engine, Measure, UnsupportedGradient
from gradclip.result import ALL, Gradients, Part
from gradclip.rules.arrays import Array, ArrayFunctions
from gradclip.rules.norm import RMS
from gradclip.rules.rule import Rule
from gradclip.rules.scope import Global, Group, Row, Tensor, rows_of
from gradclip.rules.segments import Segments, segments
from gradclip.rules.sweep import Phase, Sweep
from gradclip.rules.threshold import SecondMoment

ALIKE = Segments(0)
"""The segments of a stage that was measured at its own scope: no index is needed."""


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


def bounds_of(rule: Rule, step: Any, divisor: Array, xp: ArrayFunctions) -> tuple[Any, Any]:
    """The bounds in the unit in which the gradients are stored."""
    low, high = rule.threshold.bounds(step, xp)
    return low * divisor, high * divisor


def own_bounds_of(part: Part) -> tuple[Array, Array]:
    """The bounds [T] of each tensor that a threshold that adapts decided on, in the unit of the stored gradients."""
    high, low = sides(part.plan.decisions[0].threshold * part.divisor, part.measure.xp)
    return -low, high


def refuse_unfit(phase: Phase, gradients: Gradients, engine: Engine) -> None:
    """Refuse now what a phase would refuse after something was written: no order, no axis of rows, sparse ones."""
    for _, sweep, own in columns_of(phase, gradients):
        if sweep.elementwise or isinstance(sweep.leaf, Row):
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


def gathered_once(engine: Engine, gradients: Gradients) -> tuple[Gradients, Any]:
    """The gradients without those whose memory came before, and their batch: each counts and is scaled once."""
    batch = gathered(engine, gradients)
    again = engine.repeated(batch)
    if not again:
        return gradients, batch
    gradients = gradients.only([i for i in range(len(gradients.tensors)) if i not in again])
    return gradients, gathered(engine, gradients)


def gathered(engine: Engine, own: Gradients) -> Any:
    try:
        return engine.gather(own.tensors)
    except UnsupportedGradient as error:
        raise refused(own, error) from None


def refused(own: Gradients, error: UnsupportedGradient) -> TypeError:
    return TypeError(f"the gradient of {own.name(error.index)!r} cannot be clipped: {error.reason}")
