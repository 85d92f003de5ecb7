"""Measuring: the gradients as an engine takes them, and what it reads of them and of what stands beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gradclip.engines.base import Engine, Measure, UnsupportedGradient
from gradclip.rules.arrays import Array
from gradclip.rules.scope import Global, Row, Tensor, rows_of
from gradclip.rules.segments import Segments
from gradclip.rules.sweep import Sweep
from gradclip.step.decide import combined
from gradclip.step.gradients import Gradients

NONE: Mapping[str, Array] = {}


def gathered_once(engine: Engine, gradients: Gradients) -> tuple[Gradients, Any]:
    """The gradients without those whose memory came before, and their batch: each counts and is scaled once."""
    batch = gathered(engine, gradients)
    again = engine.repeated(batch)
    if not again:
        return gradients, batch
    gradients = gradients.only([i for i in range(len(gradients.tensors)) if i not in again])
    return gradients, gathered(engine, gradients)


def gathered(engine: Engine, own: Gradients) -> Any:
    """The batch of the gradients, or the error that names the one that `engine` cannot take."""
    try:
        return engine.gather(own.tensors)
    except UnsupportedGradient as error:
        raise refused(own, error) from None


def refused(own: Gradients, error: UnsupportedGradient) -> TypeError:
    """The error of an engine, with the name of the gradient."""
    return TypeError(f"the gradient of {own.name(error.index)!r} cannot be clipped: {error.reason}")


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


def numbers_of(own: Gradients, measure: Measure) -> Mapping[str, Array]:
    """What was given beside the gradients, as arrays [1] of the kind that is decided in."""
    if not own.given:
        return NONE
    xp = measure.xp
    return {
        name: xp.array([number], measure.total) if isinstance(number, float) else number
        for name, number in own.given.items()
    }
