"""Writing: each segment times its coefficient, or each element between its bounds. Nothing was written before."""

from __future__ import annotations

from typing import Protocol

from gradclip.engines.base import Batch, Engine
from gradclip.rules.arrays import Array
from gradclip.rules.threshold import Step
from gradclip.step.decide import bounds_of, sides
from gradclip.step.layout import LineUp
from gradclip.step.part import Part


class Writes(Protocol):
    """Whose method `write` is: a clipper."""

    line: LineUp
    step: Step


def write(clipper: Writes, part: Part, batch: Batch, engine: Engine) -> None:
    """Write to the gradients of a part what was decided for them."""
    line = clipper.line
    if part.sweep.elementwise:
        write_elements(part, batch, engine, line.policy.writes_zeros, clipper.step)
    else:
        engine.apply_(batch, part.sweep.leaf, part.plan.coefficient, line.writes_zeros, line.enlarges)


def write_elements(part: Part, batch: Batch, engine: Engine, zeroes: bool, step: Step) -> None:
    """Write each element as its rule maps it, if any is to be changed; where it `zeroes`, zeros for what is broken."""
    if zeroes:
        engine.zero_nonfinite_(batch)
    (rule,), (decision,), xp = part.sweep.stages, part.plan.decisions, part.measure.xp
    if engine.waits or xp.any(decision.coefficient != 1.0) or xp.any(part.measure.nonfinite > 0):
        adapted = rule.threshold.adapts
        bounds = own_bounds_of(part) if adapted else bounds_of(rule, step, part.divisor, xp)
        engine.map_(batch, rule.response, *bounds)


def own_bounds_of(part: Part) -> tuple[Array, Array]:
    """The bounds [T] of each tensor that a threshold that adapts decided on, in the unit of the stored gradients."""
    high, low = sides(part.plan.decisions[0].threshold * part.divisor, part.measure.xp)
    return -low, high
