"""Measuring: what an engine reads of the gradients of a sweep, and of what stands beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from gradclip.engines.base import Batch, Engine, Measure, UnsupportedGradient
from gradclip.rules.arrays import SCALARS, Array
from gradclip.rules.response import is_clamp
from gradclip.rules.scope import Global, Row, Tensor, rows_of
from gradclip.rules.segments import Segments
from gradclip.rules.sweep import Sweep
from gradclip.rules.threshold import SecondMoment, Step
from gradclip.step.decide import combined
from gradclip.step.gradients import Gradients, gathered, refused
from gradclip.step.layout import LineUp
from gradclip.step.moments import over_moments
from gradclip.step.part import nothing
from gradclip.step.write import bounds_of

NONE: Mapping[str, Array] = {}


class Read(NamedTuple):
    """What was read for a sweep.

    `own` are the gradients in the unit in which they were measured and `batch` theirs. `each` is the measure of each
    tensor, if it is wanted and `measure` is of all together; `shapes` are as measured, where the sweep reads them;
    `given` are the numbers beside the gradients. `lifted` says that one number was put into arrays, `written` that the
    engine has clamped in the same read; `finish` is what to do after writing.
    """

    own: Gradients
    batch: Batch
    measure: Measure
    each: Measure | None = None
    shapes: Sequence[tuple[int, ...]] = ()
    weights: Measure | None = None
    given: Mapping[str, Array] = NONE
    lifted: bool = False
    written: bool = False
    finish: Callable[[], None] = nothing


def read(
    sweep: Sweep, own: Gradients, batch: Batch | None, engine: Engine, line: LineUp, step: Step, tensors: bool
) -> Read:
    """Measure the gradients of a sweep; only the fused clamp writes, and only where none can refuse.

    `batch` is theirs, if it was gathered and nothing was written since; `tensors` asks for the norm of each.
    """
    if batch is None:
        batch = gathered(engine, own)
    try:
        if sweep.elementwise:
            return _elements(sweep, own, batch, engine, line, step)
        return _segments(sweep, own, batch, engine, tensors)
    except UnsupportedGradient as error:
        raise refused(own, error) from None


def _segments(sweep: Sweep, own: Gradients, batch: Batch, engine: Engine, tensors: bool) -> Read:
    """One measure for a sweep of rescaling stages."""
    measure, each = measured(engine, batch, sweep, len(own.tensors) if tensors else 0)
    lifted = sweep.keeps_rows and measure.xp is SCALARS
    if lifted:
        measure = engine.in_arrays(measure)
    shapes = engine.shapes(batch, sweep.leaf) if sweep.reads_shapes else ()
    weights = weights_of(sweep, own, engine, shapes) if sweep.reads_weights else None
    return Read(own, batch, measure, each, shapes, weights, numbers_of(own, measure), lifted)


def _elements(sweep: Sweep, own: Gradients, batch: Batch, engine: Engine, line: LineUp, step: Step) -> Read:
    """The largest magnitudes; an engine with a fused clamp measures and writes in the same read."""
    (rule,), finish = sweep.stages, nothing
    relative = rule.threshold if isinstance(rule.threshold, SecondMoment) else None
    if relative:
        engine.refuse_unordered(batch)
        tensors, finish = over_moments(own, relative.factor, engine)
        own, batch = own._replace(tensors=tensors, divisor=1.0), engine.gather(tensors)
    fuses = engine.clamps and is_clamp(rule.response) and line.policy.warns
    if not fuses or relative or rule.threshold.adapts or line.can_skip or line.can_raise:
        measure = engine.measure(batch, rule.scope, rule.norm)
        return Read(own, batch, measure, given=numbers_of(own, measure), finish=finish)
    low, high = bounds_of(rule, step, own.divisor, engine.xp)
    return Read(own, batch, engine.clamp_(batch, low, high), written=True)


def measured(engine: Engine, batch: Batch, sweep: Sweep, tensors: int) -> tuple[Measure, Measure | None]:
    """The measure of a sweep; and that of each of so many `tensors`, of the same read, where only all are measured."""
    if not tensors or not isinstance(sweep.leaf, Global):
        return engine.measure(batch, sweep.leaf, sweep.norm), None
    each = engine.measure(batch, Tensor(), sweep.norm)
    whole, _ = combined(each, sweep.stages[0], Segments(1, [0] * tensors))
    return engine.in_floats(whole), each


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


def numbers_of(own: Gradients, measure: Measure) -> Mapping[str, Array]:
    """What was given beside the gradients, as arrays [1] of the kind that is decided in."""
    if not own.given:
        return NONE
    xp = measure.xp
    return {
        name: xp.array([number], measure.total) if isinstance(number, float) else number
        for name, number in own.given.items()
    }
