"""Measuring: what an engine reads of the gradients of a sweep, and of what stands beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from gradclip.engines.base import Batch, Engine, Measure, UnsupportedGradient
from gradclip.rules.arrays import Array
from gradclip.rules.response import is_clamp
from gradclip.rules.scope import Global, Tensor
from gradclip.rules.segments import Segments
from gradclip.rules.sweep import Sweep
from gradclip.rules.threshold import SecondMoment, Step
from gradclip.step.decide import bounds_of, combined
from gradclip.step.gradients import Gradients, gathered, refused
from gradclip.step.layout import Column, LineUp, gathered_weights
from gradclip.step.moments import over_moments


class Read(NamedTuple):
    """What was read for a sweep.

    `gradients` are those of the sweep in the unit in which they were measured and `batch` theirs. `each` is the measure
    of each tensor, if it is wanted and `measure` is of all together; `shapes` are as measured, where the sweep reads
    them; `weights` is the measure of the parameters of `weight_batch`. `written` says that the engine has clamped in
    the same read; `finish` is what to do after writing.
    """

    gradients: Gradients
    batch: Batch
    measure: Measure
    each: Measure | None = None
    shapes: Sequence[tuple[int, ...]] = ()
    weights: Measure | None = None
    weight_batch: Batch | None = None
    written: bool = False
    finish: Callable[[], None] | None = None


def read(
    column: Column, gradients: Gradients, batch: Batch | None, engine: Engine, line: LineUp, step: Step, tensors: bool
) -> Read:
    """Measure the gradients of a sweep; only the fused clamp writes, and only where none can refuse.

    `batch` is theirs, if it was gathered and nothing was written since; `tensors` asks for the norm of each.
    """
    if batch is None:
        batch = gathered(engine, gradients, column.tables)
    try:
        if column.sweep.elementwise:
            return _elements(column.sweep, gradients, batch, engine, line, step)
        return _segments(column, gradients, batch, engine, tensors)
    except UnsupportedGradient as error:
        raise refused(gradients, error) from None


def _segments(column: Column, gradients: Gradients, batch: Batch, engine: Engine, tensors: bool) -> Read:
    """One measure for a sweep of rescaling stages."""
    sweep = column.sweep
    measure, each = measured(engine, batch, sweep, len(gradients.tensors) if tensors else 0)
    shapes = engine.shapes(batch, sweep.leaf) if sweep.reads_shapes else ()
    if not sweep.reads_weights:
        return Read(gradients, batch, measure, each, shapes)
    weights = gathered_weights(column, gradients, engine, shapes)
    return Read(gradients, batch, measure, each, shapes, engine.measure(weights, sweep.leaf, sweep.norm), weights)


def _elements(sweep: Sweep, gradients: Gradients, batch: Batch, engine: Engine, line: LineUp, step: Step) -> Read:
    """The largest magnitudes; an engine with a fused clamp measures and writes in the same read."""
    (rule,), finish = sweep.stages, None
    relative = rule.threshold if isinstance(rule.threshold, SecondMoment) else None
    if relative:
        engine.refuse_unordered(batch)
        tensors, finish = over_moments(gradients, relative.factor, engine)
        gradients, batch = gradients._replace(tensors=tensors, divisor=1.0), engine.gather(tensors)
    fuses = engine.clamps and is_clamp(rule.response) and not line.policy.writes_zeros
    if not fuses or relative or rule.threshold.adapts or line.can_skip or line.can_raise:
        measure = engine.measure(batch, rule.scope, rule.norm)
        return Read(gradients, batch, measure, finish=finish)
    low, high = bounds_of(rule, step, gradients.divisor, engine.xp)
    return Read(gradients, batch, engine.clamp_(batch, low, high), written=True)


def measured(engine: Engine, batch: Batch, sweep: Sweep, tensors: int) -> tuple[Measure, Measure | None]:
    """The measure of a sweep; and that of each of so many `tensors`, of the same read, where only all are measured."""
    if not tensors or not isinstance(sweep.leaf, Global):
        return engine.measure(batch, sweep.leaf, sweep.norm), None
    each = engine.measure(batch, Tensor(), sweep.norm)
    return each if engine.reduces else together(engine, each, sweep, tensors), each


def together(engine: Engine, each: Measure, sweep: Sweep, tensors: int) -> Measure:
    """The measure of so many tensors from that of each."""
    whole, _ = combined(each, sweep.stages[0], Segments(1, [0] * tensors))
    return engine.in_floats(whole)


def numbers_of(gradients: Gradients, measure: Measure) -> Mapping[str, Array]:
    """What was given beside the gradients, as arrays [1] of the kind that is decided in."""
    xp = measure.xp
    return {
        name: xp.array([number], measure.total) if isinstance(number, float) else number
        for name, number in gradients.given.items()
    }
