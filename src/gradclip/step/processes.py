"""What processes that share the gradients of a step tell one another, beside the measures that `decide` sums up."""

from __future__ import annotations

from collections.abc import Iterable

from gradclip.engines.base import Across, Engine
from gradclip.rules.arrays import Array, ArrayFunctions, Operand
from gradclip.step.decide import either
from gradclip.step.gradients import Gradients
from gradclip.step.part import Part


def broken_after(parts: Iterable[Part], broken: Operand, gradients: Gradients) -> Operand:
    """Whether any process has measured a non-finite element in these parts, or `broken` says so already."""
    across = gradients.across
    for part in parts:
        measure = part.measure
        if across is not None:
            measure = measure._replace(nonfinite=across.only(part.indices).shards(part.counts, "sum"))
        broken = either(measure, broken, across)
    return broken


def in_any(number: float, counts: Array, xp: ArrayFunctions, engine: Engine, across: Across) -> float:
    """The largest `number` of any process, which has as many tensors as `counts`; all ask, in the same order."""
    shared = max(engine.to_host(across.shards(0.0 * counts + number, "max")), default=number)
    return engine.to_host(across.tensors(xp.array([float(shared)], counts), "max"))[0]
