"""Scope `Element`: a clamp between the bounds of each element, measured, decided and written."""

from __future__ import annotations

from typing import Any

from gradclip.engines.base import Engine
from gradclip.rules.arrays import Array, ArrayFunctions
from gradclip.rules.response import Rescale
from gradclip.rules.rule import Rule
from gradclip.rules.sweep import Sweep
from gradclip.rules.threshold import SecondMoment
from gradclip.step.decide import Plan, elementwise_decision, sides
from gradclip.step.gradients import Gradients
from gradclip.step.moments import over_moments
from gradclip.step.part import ALIKE, Part
from gradclip.step.work import Terms, Work, nothing, numbers_of, recalled


def clamped(key: tuple[int, int], sweep: Sweep, own: Gradients, engine: Engine, batch: Any, terms: Terms) -> Work:
    """A stage, measured and decided; an engine with a fused clamp measures and writes in the same read."""
    (rule,), finish = sweep.stages, nothing
    relative = rule.threshold if isinstance(rule.threshold, SecondMoment) else None
    if relative:
        engine.refuse_unordered(batch)
        tensors, finish = over_moments(own, relative.factor, engine)
        own, batch = own._replace(tensors=tensors, divisor=1.0), engine.gather(tensors)
    fuses = hasattr(engine, "clamp_") and isinstance(rule.response, Rescale) and terms.on_nonfinite == "keep"
    if fuses and not (relative or rule.threshold.adapts or terms.refuses):
        low, high = bounds_of(rule, terms.step, own.divisor, engine.xp)  # type: ignore[attr-defined]
        measure = engine.clamp_(batch, low, high)  # type: ignore[attr-defined]
    else:
        fuses, measure = False, engine.measure(batch, rule.scope, rule.norm)
    owners, (state,) = recalled(key, sweep, own, (), measure, terms)
    decision = elementwise_decision(
        measure,
        rule,
        terms.on_nonfinite,
        terms.step,
        own.divisor,
        state,
        own.across,
        numbers_of(own, measure),
        own.broken,
    )
    part = Part(key, sweep, own.name, (), own.divisor, measure, Plan(None, [decision]), [ALIKE], owners)
    return Work(part, batch, fuses, finish)


def write_elements(part: Part, batch: Any, engine: Engine, on_nonfinite: str, step: Any) -> None:
    """Write each element as its rule maps it, if any is to be changed."""
    if on_nonfinite == "zero":
        engine.purge_(batch)
    (rule,), (decision,), xp = part.sweep.stages, part.plan.decisions, part.measure.xp
    if engine.waits or xp.any(decision.coefficient != 1.0) or xp.any(part.measure.nonfinite > 0):
        adapted = rule.threshold.adapts
        bounds = own_bounds_of(part) if adapted else bounds_of(rule, step, part.divisor, xp)
        engine.map_(batch, rule.response, *bounds)


def bounds_of(rule: Rule, step: Any, divisor: Array, xp: ArrayFunctions) -> tuple[Any, Any]:
    """The bounds in the unit in which the gradients are stored."""
    low, high = rule.threshold.bounds(step, xp)
    return low * divisor, high * divisor


def own_bounds_of(part: Part) -> tuple[Array, Array]:
    """The bounds [T] of each tensor that a threshold that adapts decided on, in the unit of the stored gradients."""
    high, low = sides(part.plan.decisions[0].threshold * part.divisor, part.measure.xp)
    return -low, high
