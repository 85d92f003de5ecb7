"""Measures in, decisions out: the one place where a coefficient is made.

Pure, and free of any framework: the same lines run on plain floats, NumPy, and a framework's arrays on its device,
through the array functions that come with the measure. Nothing here waits for a device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from gradclip.engines.base import SMALLEST, Across, Measure
from gradclip.rules.arrays import SCALARS, Array, ArrayFunctions, Operand
from gradclip.rules.response import PASS, is_clamp
from gradclip.rules.rule import Rule
from gradclip.rules.scope import Element, Global
from gradclip.rules.segments import Segments
from gradclip.rules.threshold import Observed, State, Step
from gradclip.step.policy import KEEPS, Policy

NOTHING: Mapping[str, Array] = {}
FAR = 1e300
"""Beyond this ratio phi(r) r has reached its limit: 1, or 0 where a segment becomes zero."""
LESSON = 1e150
"""A norm above this is no lesson: its square leaves float64, and with it what an estimator remembers."""


class Terms(NamedTuple):
    """What a step is decided by, beside what was measured: the same for each stage of a sweep.

    `divisor` is what the optimizer divides the gradients by later (a loss scale), `given` the numbers of the caller.
    Where `broken`, because an earlier sweep met an element that is not finite, nothing is learnt. `across` sums up over
    the processes that share the gradients.
    """

    policy: Policy = KEEPS
    step: Step = 0
    divisor: Array = 1.0
    given: Mapping[str, Array] = NOTHING
    broken: Array | None = None
    across: Across | None = None


class Decision(NamedTuple):
    """What one stage decided for each of its G segments; norms and thresholds have the unit of the gradient."""

    norm: Array
    threshold: Array
    coefficient: Array
    action: Array
    state: State


class Plan(NamedTuple):
    """What a sweep decided: one coefficient for each measured segment [S], and the decision of each stage.

    Elements have no coefficient.
    """

    coefficient: Operand
    decisions: list[Decision]


def decide_sweep(
    measure: Measure,
    stages: Sequence[Rule],
    parts: Sequence[Segments],
    states: Sequence[State],
    terms: Terms,
    weights: Measure | None = None,
) -> Plan:
    """Decide the stages of one sweep after another, each on what the ones before it leave.

    `parts` are the segments of each stage and `states` the memories of their thresholds; `weights` is the measure of
    the parameters over the same S segments, for the thresholds that read it. Where processes share the gradients, the
    segments measured are tensors. A stage of elements is alone in its sweep, and its elements have bounds instead of a
    coefficient.
    """
    if isinstance(stages[0].scope, Element):
        return Plan(None, [elementwise_decision(measure, stages[0], states[0], terms)])
    across = terms.across
    if across is not None:
        measure = summed_up(measure, stages[0], across.shards)
        weights = None if weights is None else summed_up(weights, stages[0], across.shards)
    if terms.policy.writes_zeros and any(rule.threshold.adapts for rule in stages):
        terms = terms._replace(broken=either(measure, terms.broken, across))
    if len(stages) == 1 and parts[0].places is None and weights is None:  # nothing folds
        decision = _hard_clip(measure, stages[0], terms, parts[0].sizes)
        if decision is None:
            decision = decide(measure, stages[0], states[0], terms, parts[0].sizes)
        return Plan(decision.coefficient, [decision])
    coefficient: Array | None = None
    decisions = []
    for position, (rule, segments, state) in enumerate(zip(stages, parts, states, strict=True)):
        measured, index = combined(measure, rule, segments, across)
        weight_norm = None
        if weights is not None:
            weight_norm = norm_of(combined(weights, rule, segments, across)[0], rule, segments.sizes)
        decision = decide(measured, rule, state, terms, segments.sizes, weight_norm)
        decisions.append(decision)
        factor = decision.coefficient if index is None else measure.xp.take(decision.coefficient, index)
        coefficient = factor if coefficient is None else coefficient * factor
        if position + 1 < len(stages):
            measure = _after(measure, rule, factor)
    return Plan(coefficient, decisions)


def _hard_clip(measure: Measure, rule: Rule, terms: Terms, sizes: Sequence[int]) -> Decision | None:
    """The decision of one stage as the engine makes it by itself, where it does and knows the case."""
    if measure.hard_clip is None or terms.across is not None or rule.threshold.adapts or sizes:
        return None
    threshold: Operand = rule.threshold.value(terms.step, measure.xp)
    divisor, policy = terms.divisor, terms.policy
    divides = not isinstance(divisor, float)
    known = isinstance(threshold, int | float) and (divides or divisor == 1.0)
    if not known or not is_clamp(rule.response):
        return None
    norm, coefficient, action = measure.hard_clip(
        threshold, divisor if divides else None, rule.response.action, policy.coefficient, policy.action
    )
    return Decision(norm, threshold, coefficient, action, {})


def decide(
    measure: Measure, rule: Rule, state: State, terms: Terms, sizes: Sequence[int] = (), weights: Array | None = None
) -> Decision:
    """The decision of one stage: `coefficient = phi(norm / threshold)`, unless the segment is non-finite."""
    xp, policy = measure.xp, terms.policy
    norm, threshold, coefficient, bad, state = _limited(measure, rule, state, terms, sizes, weights)
    action = _action(coefficient, rule, xp)
    return Decision(
        norm, threshold, xp.where(bad, policy.coefficient, coefficient), xp.where(bad, policy.action, action), state
    )


def norm_and_coefficient(measure: Measure, rule: Rule) -> tuple[Array, Array]:
    """Of the decision of a rule that remembers nothing, what it takes to clip by hand."""
    norm, _, coefficient, bad, _ = _limited(measure, rule, {}, Terms())
    return norm, measure.xp.where(bad, KEEPS.coefficient, coefficient)


def _limited(
    measure: Measure, rule: Rule, state: State, terms: Terms, sizes: Sequence[int] = (), weights: Array | None = None
) -> tuple[Array, Array, Array, Array, State]:
    """Norm, threshold and coefficient of each segment as if all were finite, which are not, and the new memory."""
    xp, divisor, scale = measure.xp, terms.divisor, measure.scale
    unscaled = unscaled_norm(measure, rule, sizes)
    if not isinstance(divisor, float) or divisor != 1.0:  # each operation on a device that is spared is a launch
        unscaled = unscaled / divisor
    norm = unscaled if isinstance(scale, float) and scale == 1.0 else unscaled * scale
    bad = xp.either(measure.nonfinite > 0, xp.nonfinite(measure.total))
    if rule.threshold.adapts:
        threshold, state = _adapted(norm, bad, rule, state, terms, xp, weights)
    else:
        threshold = rule.threshold.value(terms.step, xp)
    if rule.threshold.adapts or isinstance(threshold, int | float):
        coefficient = _coefficient(norm, unscaled, scale, threshold, rule, xp)
    else:
        coefficient = _computed(lambda limit: _coefficient(norm, unscaled, scale, limit, rule, xp), norm, threshold, xp)
    return norm, threshold, coefficient, bad, state


def elementwise_decision(measure: Measure, rule: Rule, state: State, terms: Terms) -> Decision:
    """The decision at scope `Element`, on the largest positive and the largest negative magnitude of each tensor.

    A tensor with a non-finite element is skipped or raised for as a whole; other policies concern that element alone,
    so the coefficient of the finite ones stands. A threshold that adapts observes the larger of both magnitudes.
    """
    assert isinstance(rule.scope, Element)
    xp = measure.xp
    norm: Operand = measure.total / terms.divisor
    tensors = len(norm) // 2
    phi = rule.response.coefficient
    if rule.threshold.adapts:
        limit, state = _limit_of_elements(measure._replace(total=norm), rule, state, terms)
        limits = xp.take(limit, xp.indices([i for i in range(tensors) for _ in range(2)], measure.total))
        coefficient = phi(norm / limits, xp)
    else:
        low, high = rule.threshold.bounds(terms.step, xp)
        limits = xp.take(xp.array([high, -low], measure.total), xp.indices([0, 1] * tensors, measure.total))
        known = isinstance(high, int | float)
        coefficient = (
            phi(norm / limits, xp) if known else _computed(lambda limit: phi(norm / limit, xp), norm, limits, xp)
        )
    action = _action(coefficient, rule, xp)
    if terms.policy.stops:
        action = xp.where(measure.nonfinite > 0, terms.policy.action, action)
    return Decision(norm, limits, coefficient, action, state)


def bounds_of(rule: Rule, step: Step, divisor: Array, xp: ArrayFunctions) -> tuple[Operand, Operand]:
    """The bounds in the unit in which the gradients are stored; as good as none where a program computed no numbers."""
    low, high = rule.threshold.bounds(step, xp)
    if not isinstance(high, int | float):
        least = 0.0 if is_clamp(rule.response) else SMALLEST  # an element of 0 has a ratio, too
        low, high = (xp.where(high >= 0.0, sign * xp.maximum(high, least), sign * FAR) for sign in (-1.0, 1.0))
    return low * divisor, high * divisor


def _limit_of_elements(measure: Measure, rule: Rule, state: State, terms: Terms) -> tuple[Array, State]:
    """The threshold [T] of each tensor's elements, and the memory after it."""
    xp, across = measure.xp, terms.across
    norm, flawed = xp.maximum(*sides(measure.total, xp)), sides(measure.nonfinite, xp)[0]
    if across is not None:
        norm, flawed = across.shards(norm, "max"), across.shards(flawed, "sum")
    limit, state = _adapted(norm, xp.either(flawed > 0, xp.nonfinite(norm)), rule, state, terms, xp)
    return limit + 0.0 * norm, state  # one number for all becomes one for each


def _adapted(
    norm: Array, bad: Array, rule: Rule, state: State, terms: Terms, xp: ArrayFunctions, weights: Array | None = None
) -> tuple[Array, State]:
    """The threshold of a rule that adapts, infinity where it is not above 0, and its memory after it."""
    learns = teaching(norm, bad, terms.broken, xp)
    limit, state = rule.threshold.at(Observed(norm, terms.step, weights, learns, xp, terms.given), state)
    functions = SCALARS if isinstance(limit, int | float) else xp
    return functions.where(limit > 0.0, limit, math.inf), state


def _coefficient(norm: Array, unscaled: Array, scale: Array, threshold: Array, rule: Rule, xp: ArrayFunctions) -> Array:
    """phi of norm / threshold, also where one of both is too large for float64: measures with a scale reach there.

    `norm` is `unscaled * scale`.
    """
    phi, ratio = rule.response.coefficient, norm / threshold
    if ratio <= FAR if xp is SCALARS else isinstance(scale, float):
        return phi(ratio, xp)
    ratio = xp.where(xp.nonfinite(norm), unscaled / threshold * scale, ratio)
    limit = phi(FAR, SCALARS) * FAR
    far = ratio > FAR
    unscaled, scale = xp.where(far, unscaled, 1.0), xp.where(far, scale, 1.0)  # the other branch is taken at 0, too
    return xp.where(far, limit * (threshold / unscaled / scale), phi(ratio, xp))


def _computed(coefficient: Callable[[Array], Array], norm: Array, threshold: Array, xp: ArrayFunctions) -> Array:
    """`coefficient` of a threshold that a compiled program computed, where none can be refused.

    0 writes zeros, and what is zero stays; one that is negative or no number leaves the gradient as it is.
    """
    found = coefficient(xp.where(threshold > 0.0, threshold, 1.0))
    found = xp.where(threshold > 0.0, found, xp.where(norm > 0.0, 0.0, 1.0))
    return xp.where(threshold >= 0.0, found, 1.0)


def _action(coefficient: Array, rule: Rule, xp: ArrayFunctions) -> Array:
    """What is done to the segments: something where the coefficient is not 1."""
    return xp.where(coefficient != 1.0, rule.response.action, PASS)


def teaching(norm: Array, bad: Array, broken: Array | None, xp: ArrayFunctions) -> Array:
    """Where a norm may be learnt: it is finite, not 0 and not too large, and nothing `broken` came before it."""
    barred = xp.either(bad, norm > LESSON)
    return xp.where(barred if broken is None else xp.either(barred, broken), False, norm > 0)


def either(measure: Measure, broken: Array | None, across: Across | None = None) -> Array:
    """Whether any element measured is not finite, here or where other tensors are, or `broken` is true already."""
    xp = measure.xp
    found = xp.any(measure.nonfinite > 0)
    if across is not None:
        unit = xp.array([1.0], measure.total)
        found = across.tensors(xp.where(found, unit, 0.0 * unit), "max") > 0
    return found if broken is None else xp.either(found, broken)


def norm_of(measure: Measure, rule: Rule, sizes: Sequence[int]) -> Array:
    """The norm of each segment, in the unit in which the gradients are stored."""
    return unscaled_norm(measure, rule, sizes) * measure.scale


def unscaled_norm(measure: Measure, rule: Rule, sizes: Sequence[int]) -> Array:
    """The norm of each segment in units of the measure's `scale`."""
    size = measure.xp.array(sizes, measure.total) if sizes else None
    return rule.norm.finish(measure.total, size, measure.xp)


def combined(
    measure: Measure, rule: Rule, segments: Segments, across: Across | None = None
) -> tuple[Measure, Array | None]:
    """The measure of the G segments of a stage from that of the S measured ones, and the index from S to G."""
    if segments.places is None:
        return measure, None
    xp, how = measure.xp, rule.norm.combine
    if across is not None and across.together is not None and isinstance(rule.scope, Global):
        return across.together(measure, rule.norm), xp.indices(segments.places, measure.total)
    if across is not None and isinstance(rule.scope, Global):
        measure = measure._replace(total=across.counted(measure.total), nonfinite=across.counted(measure.nonfinite))
    index = xp.indices(segments.places, measure.total)
    total, scale = measure.total, measure.scale
    if not isinstance(scale, float):
        scale = xp.combine(measure.scale, index, segments.number, "max")
        total = _rescaled(measure, rule, xp.take(scale, index))
    total = xp.combine(total, index, segments.number, how)
    together = Measure(total, xp.combine(measure.nonfinite, index, segments.number, "sum"), xp, scale)
    if across is not None and isinstance(rule.scope, Global):
        if across.others and how == "sum" and isinstance(scale, float):
            together = together._replace(scale=xp.array([scale], total))  # tensors of others may be float64
        together = summed_up(together, rule, across.tensors)
    return together, index


def summed_up(measure: Measure, rule: Rule, reduce: Callable[[Operand, str], Array]) -> Measure:
    """`measure` with what other processes measured of the same segments, its counts only so far as they are not 0."""
    total, scale, how = measure.total, measure.scale, rule.norm.combine
    if not isinstance(scale, float):
        scale = reduce(scale, "max")
        total = _rescaled(measure, rule, scale)
    return measure._replace(total=reduce(total, how), nonfinite=reduce(measure.nonfinite, how), scale=scale)


def _rescaled(measure: Measure, rule: Rule, scale: Array) -> Array:
    """The totals as if they had been taken with the coarser `scale`."""
    safe = measure.xp.where(scale > 0, scale, 1.0)  # a group that no process has a tensor of
    return rule.norm.scaled(measure.total, measure.scale / safe, measure.xp)


def _after(measure: Measure, rule: Rule, coefficient: Array) -> Measure:
    """The measure after the gradients are multiplied by `coefficient`; what becomes zero is finite."""
    xp, zeroed, scale = measure.xp, coefficient == 0.0, measure.scale
    if isinstance(scale, float) and scale == 1.0:
        total = xp.where(zeroed, 0.0, rule.norm.scaled(measure.total, coefficient, xp))
    else:
        total, scale = xp.where(zeroed, 0.0, measure.total), xp.where(zeroed, SMALLEST, scale * coefficient)
    return measure._replace(total=total, nonfinite=xp.where(zeroed, 0, measure.nonfinite), scale=scale)


def sides(values: Operand, xp: ArrayFunctions) -> tuple[Array, Array]:
    """Of the two numbers [2T] that each tensor has at scope `Element` the first ones [T] and the second ones [T]."""
    first, second = (xp.take(values, xp.indices(list(range(side, len(values), 2)), values)) for side in (0, 1))
    return first, second
