"""Measures in, decisions out: the one place where a coefficient is made.

Pure, and free of any framework: the same lines run on plain floats, NumPy, and a framework's arrays on its device,
through the array functions that come with the measure. Nothing here waits for a device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from gradclip.engines.base import Across, Measure
from gradclip.rules.arrays import SCALARS, Array, ArrayFunctions
from gradclip.rules.response import KEEP, PASS, RAISE, SKIP, ZERO
from gradclip.rules.rule import Rule
from gradclip.rules.scope import Element, Global
from gradclip.rules.segments import Segments
from gradclip.rules.threshold import Observed, State

POLICIES = {"keep": (1.0, KEEP), "skip": (0.0, SKIP), "zero": (0.0, ZERO), "raise": (0.0, RAISE)}
"""`on_nonfinite`: the coefficient and the action for a segment that holds a non-finite element."""

NOTHING: Mapping[str, Any] = {}


class Decision(NamedTuple):
    """What one stage decided for each of its G segments; norms and thresholds have the unit of the gradient."""

    norm: Array
    threshold: Array
    coefficient: Array
    action: Array
    state: State


class Plan(NamedTuple):
    """What a sweep decided: one coefficient for each measured segment [S], and the decision of each stage."""

    coefficient: Array
    decisions: list[Decision]


def decide_sweep(
    measure: Measure,
    stages: Sequence[Rule],
    parts: Sequence[Segments],
    states: Sequence[State],
    *,
    on_nonfinite: str,
    step: Any,
    divisor: Array = 1.0,
    weights: Measure | None = None,
    across: Across | None = None,
    given: Mapping[str, Any] = NOTHING,
    broken: Array = None,
) -> Plan:
    """Decide the stages of one sweep after another, each on what the ones before it leave.

    `parts` are the segments of each stage and `states` the memories of their thresholds.
    `divisor` is what the optimizer divides the gradients by later (a loss scale); `weights` is the measure of the
    parameters over the same S segments, for the thresholds that read it, and `given` the numbers of the caller. Where
    `broken`, because an earlier sweep met an element that is not finite, nothing is learnt. Where processes share the
    gradients, the segments measured are tensors, and `across` sums them up.
    """
    if across is not None:
        measure = summed_up(measure, stages[0], across.shards)
        weights = None if weights is None else summed_up(weights, stages[0], across.shards)
    if on_nonfinite == "zero" and any(rule.threshold.adapts for rule in stages):
        broken = either(measure, broken)
    coefficient: Array = None
    decisions = []
    for position, (rule, segments, state) in enumerate(zip(stages, parts, states, strict=True)):
        whole, index = combined(measure, rule, segments, across)
        seen = None
        if weights is not None:
            seen = norm_of(combined(weights, rule, segments, across)[0], rule, segments.sizes)
        decision = decide(whole, rule, segments.sizes, on_nonfinite, step, state, divisor, seen, given, broken)
        decisions.append(decision)
        own = decision.coefficient if index is None else measure.xp.take(decision.coefficient, index)
        coefficient = own if coefficient is None else coefficient * own
        if position + 1 < len(stages):
            measure = _after(measure, rule, own)
    return Plan(coefficient, decisions)


def decide(
    measure: Measure,
    rule: Rule,
    sizes: Sequence[int],
    on_nonfinite: str,
    step: Any,
    state: State,
    divisor: Array = 1.0,
    weights: Array = None,
    given: Mapping[str, Any] = NOTHING,
    broken: Array = None,
) -> Decision:
    """The decision of one stage: `coefficient = phi(norm / threshold)`, unless the segment is non-finite."""
    xp = measure.xp
    norm = norm_of(measure, rule, sizes) / divisor
    bad = xp.either(measure.nonfinite > 0, xp.nonfinite(norm))
    if rule.threshold.adapts:
        learns = teaching(norm, bad, broken, xp)
        threshold, state = rule.threshold.at(Observed(norm, step, weights, learns, xp, given), state)
        numbers = isinstance(threshold, int | float)
        threshold = (SCALARS if numbers else xp).where(threshold > 0.0, threshold, math.inf)
    else:
        threshold = rule.threshold.value(step, xp)
    coefficient = rule.response.coefficient(norm / threshold, xp)
    action = xp.where(coefficient != 1.0, rule.response.action, PASS)
    forced, forced_action = POLICIES[on_nonfinite]
    return Decision(norm, threshold, xp.where(bad, forced, coefficient), xp.where(bad, forced_action, action), state)


def teaching(norm: Array, bad: Array, broken: Array, xp: ArrayFunctions) -> Array:
    """Where a norm may be learnt: it is finite and not 0, and nothing `broken` came before it."""
    return xp.where(bad if broken is None else xp.either(bad, broken), False, norm > 0)


def either(measure: Measure, broken: Array) -> Array:
    """Whether any element measured is not finite, or `broken` is true already."""
    found = measure.xp.any(measure.nonfinite > 0)
    return found if broken is None else measure.xp.either(found, broken)


def norm_of(measure: Measure, rule: Rule, sizes: Sequence[int]) -> Array:
    """The norm of each segment, in the unit in which the gradients are stored."""
    size = measure.xp.array(sizes, measure.total) if sizes else None
    return rule.norm.finish(measure.total, size, measure.xp) * measure.scale


def combined(measure: Measure, rule: Rule, segments: Segments, across: Across | None = None) -> tuple[Measure, Array]:
    """The measure of the G segments of a stage from that of the S measured ones, and the index from S to G."""
    if segments.places is None:
        return measure, None
    xp, how = measure.xp, rule.norm.combine
    if across is not None and isinstance(rule.scope, Global):
        measure = measure._replace(total=across.counted(measure.total), nonfinite=across.counted(measure.nonfinite))
    index = xp.indices(segments.places, measure.total)
    total, scale = measure.total, measure.scale
    if not isinstance(scale, float):
        scale = xp.combine(measure.scale, index, segments.number, "max")
        total = _rescaled(measure, rule, xp.take(scale, index))
    total = xp.combine(total, index, segments.number, how)
    whole = Measure(total, xp.combine(measure.nonfinite, index, segments.number, "sum"), xp, scale)
    if across is not None and isinstance(rule.scope, Global):
        whole = summed_up(whole, rule, across.tensors)
    return whole, index


def summed_up(measure: Measure, rule: Rule, reduce: Callable[[Array, str], Array]) -> Measure:
    """`measure` with what other processes measured of the same segments."""
    total, scale = measure.total, measure.scale
    if not isinstance(scale, float):
        scale = reduce(scale, "max")
        total = _rescaled(measure, rule, scale)
    return measure._replace(
        total=reduce(total, rule.norm.combine), nonfinite=reduce(measure.nonfinite, "sum"), scale=scale
    )


def _rescaled(measure: Measure, rule: Rule, scale: Array) -> Array:
    """The totals as if they had been taken with the coarser `scale`."""
    safe = measure.xp.where(scale > 0, scale, 1.0)
    return rule.norm.scaled(measure.total, measure.scale / safe, measure.xp)


def _after(measure: Measure, rule: Rule, coefficient: Array) -> Measure:
    """The measure after the gradients are multiplied by `coefficient`; what becomes zero is finite."""
    xp, zeroed = measure.xp, coefficient == 0.0
    total = xp.where(zeroed, 0.0, rule.norm.scaled(measure.total, coefficient, xp))
    return measure._replace(total=total, nonfinite=xp.where(zeroed, 0, measure.nonfinite))


def elementwise_decision(
    measure: Measure,
    rule: Rule,
    on_nonfinite: str,
    step: Any,
    divisor: Array = 1.0,
    state: State = NOTHING,
    across: Across | None = None,
    given: Mapping[str, Any] = NOTHING,
    broken: Array = None,
) -> Decision:
    """The decision at scope `Element`, on the largest positive and the largest negative magnitude of each tensor.

    A tensor with a non-finite element is skipped or raised for as a whole; "keep" and "zero" concern that element
    alone, so the coefficient of the finite ones stands. A threshold that adapts observes the larger of both magnitudes.
    """
    assert isinstance(rule.scope, Element)
    xp = measure.xp
    norm = measure.total / divisor
    tensors = len(norm) // 2
    if rule.threshold.adapts:
        limit, state = _limit_of_elements(measure._replace(total=norm), rule, step, state, across, given, broken)
        limits = xp.take(limit, xp.indices([i for i in range(tensors) for _ in range(2)], measure.total))
    else:
        low, high = rule.threshold.bounds(step, xp)
        limits = xp.take(xp.array([high, -low], measure.total), xp.indices([0, 1] * tensors, measure.total))
    coefficient = rule.response.coefficient(norm / limits, xp)
    action = xp.where(coefficient != 1.0, rule.response.action, PASS)
    if on_nonfinite in ("skip", "raise"):
        action = xp.where(measure.nonfinite > 0, POLICIES[on_nonfinite][1], action)
    return Decision(norm, limits, coefficient, action, state)


def _limit_of_elements(
    measure: Measure,
    rule: Rule,
    step: Any,
    state: State,
    across: Across | None,
    given: Mapping[str, Any],
    broken: Array,
) -> tuple[Array, State]:
    """The threshold [T] of each tensor's elements, and the memory after it."""
    xp = measure.xp
    norm, flawed = xp.maximum(*sides(measure.total, xp)), sides(measure.nonfinite, xp)[0]
    if across is not None:
        norm, flawed = across.shards(norm, "max"), across.shards(flawed, "sum")
    bad = xp.either(flawed > 0, xp.nonfinite(norm))
    learns = teaching(norm, bad, broken, xp)
    limit, state = rule.threshold.at(Observed(norm, step, None, learns, xp, given), state)
    limit = limit + 0.0 * norm  # one number for all becomes one for each
    return xp.where(limit > 0.0, limit, math.inf), state


def sides(values: Array, xp: ArrayFunctions) -> tuple[Array, Array]:
    """Of the two numbers [2T] that each tensor has at scope `Element` the first ones [T] and the second ones [T]."""
    first, second = (xp.take(values, xp.indices(list(range(side, len(values), 2)), values)) for side in (0, 1))
    return first, second
