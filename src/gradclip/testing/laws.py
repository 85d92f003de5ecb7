"""The laws. Each is `law(bench, rule, arrays)`, raises `AssertionError` if it is broken, and its name says it."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np

from gradclip.clipper import Clipper
from gradclip.engines.base import Gradient, Kept, Measured, Slot, row_axes
from gradclip.errors import NonFiniteGradient
from gradclip.rules.arrays import SCALARS
from gradclip.rules.codec import from_dict
from gradclip.rules.norm import RMS, Norm
from gradclip.rules.rule import AnyRule, Rule, Rules, rules_in
from gradclip.rules.scope import Element, Global, Group, Row, Scope, Tensor
from gradclip.rules.segments import Segments, segments
from gradclip.rules.threshold import SecondMoment
from gradclip.step.decide import combined, norm_of
from gradclip.testing.bench import NORM_TOLERANCE, Bench, Outcome, Values, differences, same_bits, weights_like
from gradclip.testing.drawn_gradients import LARGEST
from gradclip.testing.rewrite import measuring, quiet, scaled, segments_by_reference

Law: TypeAlias = Callable[[Bench, Any, list[Values]], None]
"""A function of a bench, a rule and gradients that raises `AssertionError` where the law is broken."""


# -- Of a rule, on any engine


def below_the_threshold_nothing_is_written(bench: Bench, rule: AnyRule, arrays: list[Values]) -> None:
    """What is at or below its threshold is bit-identical afterwards, and was not written."""
    outcome = bench.clip(rule, quiet(rule, arrays, bench))
    _require_untouched(outcome, rule, "although every measure is below its threshold")


def the_bound_holds(bench: Bench, rule: AnyRule, arrays: list[Values]) -> None:
    """After clipping no measure is above its threshold."""
    outcome = bench.clip(rule, arrays)
    assert outcome.result is not None, f"{rule!r} raised {outcome.error}"
    left = segments_by_reference(measuring(rule), outcome.after, bench)
    smallest = bench.smallest * sum(array.size for array in arrays) ** 2
    for found, row in zip(left, outcome.result.segments, strict=True):
        assert found.norm_before <= row.threshold * (1 + bench.tolerance) + smallest, (
            f"{rule!r} left {row.name} with {found.norm_before}, above its threshold {row.threshold}"
        )


def the_direction_stays(bench: Bench, rule: AnyRule, arrays: list[Values]) -> None:
    """Each row is multiplied by one number that is not negative; by value, and by rows along several axes, no element
    changes sign or grows."""
    outcome = bench.clip(rule, arrays)
    rows = {single.scope for single in rules_in(rule) if isinstance(single.scope, Row)}
    elementwise = len(rows) > 1 or any(isinstance(single.scope, Element) for single in rules_in(rule))
    axes = row_axes(next(iter(rows), Row()), [before.shape for before in outcome.before], bench.unit_axis)
    room = np.inf if any(single.response.enlarges for single in rules_in(rule)) else 1 + bench.tolerance
    for index, (before, after) in enumerate(zip(outcome.before, outcome.after, strict=True)):
        if elementwise:
            kept = (np.sign(before) * np.sign(after) >= 0) & ((before == 0) | (np.abs(after) <= np.abs(before) * room))
            assert kept.all(), f"{rule!r} turned or enlarged an element of t{index}"
            continue
        for g, out in zip(_rows(before, axes[index]), _rows(after, axes[index]), strict=True):
            wrong = differences(out, _along(g, out) * g, 2 * bench.tolerance, 2 * bench.smallest)
            assert not wrong, f"{rule!r} changed the direction of t{index}: {wrong}"


def scaling_gradients_and_thresholds_scales_the_result(bench: Bench, rule: AnyRule, arrays: list[Values]) -> None:
    """Only the ratio of measure and threshold enters: 4 g against 4 t gives 4 times the result."""
    small, large = bench.clip(rule, arrays), bench.clip(scaled(rule, 4.0), [array * 4.0 for array in arrays])
    _require_equal(bench, large.after, [after * 4.0 for after in small.after], f"{rule!r} is not homogeneous", 8.0)


def groups_do_not_see_each_other(bench: Bench, rule: AnyRule, arrays: list[Values]) -> None:
    """Where nothing is measured over all tensors, one group's gradients do not depend on the other group's."""
    alone = bench.clip(rule, arrays)
    loudest = max((np.abs(array).max(initial=0.0) for array in arrays), default=0.0)
    factor = 64.0 if 64.0 * loudest <= LARGEST[bench.dtype] else 1 / 64
    other = bench.clip(rule, [array * factor if index % 2 else array for index, array in enumerate(arrays)])
    for index in range(0, len(arrays), 2):
        assert same_bits(alone.after[index], other.after[index]), (
            f"{rule!r} gave t{index} another result when the gradients of the other group changed"
        )


def clipping_twice_is_clipping_once(bench: Bench, rule: AnyRule, arrays: list[Values]) -> None:
    """With thresholds that stay, a second clip changes nothing beyond rounding."""
    once = bench.clip(rule, arrays)
    twice = bench.clip_tensors(rule, once.tensors)
    _require_equal(bench, twice.after, twice.before, f"{rule!r} is not idempotent")


def the_order_of_tensors_does_not_matter(bench: Bench, rule: AnyRule, arrays: list[Values]) -> None:
    """The tensors in another order, names and groups with them, get the same results."""
    order = range(len(arrays))
    straight, turned = bench.clip(rule, arrays, order), bench.clip(rule, arrays[::-1], order[::-1])
    _require_equal(bench, turned.after[::-1], straight.after, f"{rule!r} depends on the order of the tensors")


def shape_and_dtype_stay(bench: Bench, rule: AnyRule, arrays: list[Values]) -> None:
    """The tensors are written in place: their shape and dtype are those from before."""
    outcome = bench.clip(rule, arrays)
    for tensor, before in zip(outcome.tensors, outcome.before, strict=True):
        held = _held(tensor)
        name = str(held.dtype).rpartition(".")[2]
        assert name == bench.dtype, f"{rule!r} turned {bench.dtype} into {name}"
        assert tuple(held.shape) == before.shape, f"{rule!r} turned the shape {before.shape} into {held.shape}"


def it_agrees_with_the_reference(bench: Bench, rule: AnyRule, arrays: list[Values], **options: Any) -> None:
    """The same numbers as the reference engine gives, NaN and infinity in the same places, the same verdict."""
    outcome = bench.clip(rule, arrays, **options)
    _require_agreement(bench, rule, outcome, bench.oracle.clip(rule, outcome.before, **options))


STREAM = (1.0, 1.25, 0.8, 1.1, 8.0, 0.9, math.nan, 0.0, 1.3, 1.0, 2.0, 2.1)
"""What the gradients of each step of a stream are multiplied by."""


def it_learns_as_the_reference_does(bench: Bench, rule: AnyRule, arrays: list[Values]) -> None:
    """Step after step the same numbers as on the reference; in every third step a tensor is missing."""
    clipper, other = Clipper(rule), Clipper(rule)
    for step, factor in enumerate(STREAM):
        order = [i for i in range(len(arrays)) if step % 3 != 2 or i != 1]
        outcome = bench.clip(clipper, [arrays[i] * factor for i in order], order)
        _require_agreement(bench, rule, outcome, bench.oracle.clip(other, outcome.before, order))


def a_kept_segment_is_not_written(bench: Bench, rule: AnyRule, arrays: list[Values]) -> None:
    """on_nonfinite="keep": what holds a NaN is not written, and no finite element becomes non-finite."""
    broken, index = with_nan(rule, arrays)
    if index is None:
        return
    outcome = bench.clip(rule, broken, on_nonfinite="keep")
    assert outcome.result is not None, f"{rule!r} raised {outcome.error} under on_nonfinite='keep'"
    assert outcome.result.nonfinite > 0, f"{rule!r} did not count the NaN of t{index}"
    if not any(isinstance(single.scope, Element | Row) for single in rules_in(rule)):
        assert not outcome.wrote[index], f"{rule!r} wrote t{index} although it holds a NaN"
    for place, (before, after) in enumerate(zip(outcome.before, outcome.after, strict=True)):
        assert (np.isfinite(before) == np.isfinite(after)).all(), f"{rule!r} made t{place} finite or non-finite"


def a_skipped_step_writes_nothing(bench: Bench, rule: AnyRule, arrays: list[Values]) -> None:
    """on_nonfinite="skip": the result says so, and an engine that need not wait writes no gradient."""
    broken, index = with_nan(rule, arrays)
    if index is None:
        return
    outcome = bench.clip(rule, broken, on_nonfinite="skip")
    assert outcome.result is not None, f"{rule!r} raised {outcome.error} under on_nonfinite='skip'"
    assert outcome.result.skipped, f"{rule!r} did not skip a step with a NaN"
    if not bench.engine.waits:
        _require_untouched(outcome, rule, "although the step is skipped")


def zeroing_leaves_only_finite_numbers(bench: Bench, rule: AnyRule, arrays: list[Values]) -> None:
    """on_nonfinite="zero": afterwards every element is finite, and what was NaN is 0."""
    broken, index = with_nan(rule, arrays)
    if index is None:
        return
    outcome = bench.clip(rule, broken, on_nonfinite="zero")
    assert outcome.error is None, f"{rule!r} raised {outcome.error} under on_nonfinite='zero'"
    assert all(np.isfinite(after).all() for after in outcome.after), f"{rule!r} left non-finite elements"
    assert not outcome.after[index][np.isnan(broken[index])].any(), f"{rule!r} made a number of a NaN"


def raising_names_the_tensor_and_writes_nothing(bench: Bench, rule: AnyRule, arrays: list[Values]) -> None:
    """on_nonfinite="raise": the error names the tensor, and no gradient is written."""
    broken, index = with_nan(rule, arrays)
    if index is None:
        return
    outcome = bench.clip(rule, broken, on_nonfinite="raise")
    assert isinstance(outcome.error, NonFiniteGradient), f"{rule!r} ended with {outcome.error!r} for a NaN"
    assert f"'t{index}'" in str(outcome.error), f"{rule!r}: the error does not name t{index}: {outcome.error}"
    _require_untouched(outcome, rule, "although it raised")


def a_restored_clipper_goes_on_bit_for_bit(bench: Bench, rule: AnyRule, arrays: list[Values]) -> None:
    """A clipper that loads the state of another continues as that one does."""
    first = Clipper(rule)
    for scale in (1.0, 3.0, 0.5):
        bench.clip(first, [array * scale for array in arrays])
    second = Clipper(rule)
    second.load_state_dict(pickle.loads(pickle.dumps(first.state_dict())))
    for scale in (2.0, 5.0):
        ended, other = (bench.clip(clipper, [array * scale for array in arrays]) for clipper in (first, second))
        assert type(ended.error) is type(other.error), f"{rule!r}: the restored clipper ended with {other.error!r}"
        for index, (a, b) in enumerate(zip(ended.after, other.after, strict=True)):
            assert same_bits(a, b), f"{rule!r} gave t{index} another result after its state was saved and loaded"


def phi_of_zero_is_one(bench: Bench, rule: AnyRule, arrays: list[Values]) -> None:
    """Each response has phi(0) = 1: gradients of zeros are passed on with a coefficient of 1, and stay zeros."""
    for response in (single.response for single in rules_in(rule)):
        phi = response.coefficient(0.0, SCALARS)
        assert phi == 1.0, f"{response!r} has phi(0) = {phi}: a gradient of 0 has no direction to be scaled in"
    outcome = bench.clip(rule, [np.zeros_like(array) for array in arrays])
    assert outcome.result is not None, f"{rule!r} raised {outcome.error} for gradients of zeros"
    for row in outcome.result.segments:
        assert row.coefficient == 1.0, f"{rule!r} gave {row.name}, which is zero, the coefficient {row.coefficient}"
    for index, after in enumerate(outcome.after):
        assert not after.any(), f"{rule!r} made t{index}, which was zero, {after}"


def phi_of_infinity_is_a_number(bench: Bench, rule: AnyRule, arrays: list[Values]) -> None:
    """A ratio leaves the range where a threshold is tiny, and then a gradient is scaled by phi(inf)."""
    for response in (single.response for single in rules_in(rule)):
        phi: Any = response.coefficient(math.inf, SCALARS)
        assert math.isfinite(phi), f"{response!r} has phi(inf) = {phi}: give the limit, where the ratio is no number"


def bad_steps_teach_nothing(bench: Bench, rule: AnyRule, arrays: list[Values]) -> None:
    """The memory of a rule after a non-finite or an all-zero step is the one from before."""
    clipper = Clipper(rule)
    bench.clip(clipper, arrays)
    for what, bad in (("NaN", np.nan), ("inf", np.inf), ("0", 0.0)):
        before = clipper.state_dict()["thresholds"]
        bench.clip(clipper, [np.full_like(array, bad) for array in arrays])
        after = clipper.state_dict()["thresholds"]
        assert before == after, f"{rule!r} learnt from a step with only {what}: {before} became {after}"


def it_is_the_same_rule_after_a_round_trip(bench: Bench, rule: AnyRule, arrays: list[Values]) -> None:
    """`from_dict(to_dict(rule))` is equal, and says the same of itself."""
    again = from_dict(rule.to_dict())
    assert again == rule, f"{rule!r} came back from to_dict as {again!r}"
    assert repr(again) == repr(rule), f"{rule!r} calls itself {again!r} after to_dict"


def no_number_is_read_on_the_host(bench: Bench, rule: AnyRule, arrays: list[Values]) -> None:
    """An engine that waits for a device clips without waiting: nothing is read until someone asks the result."""
    assert bench.engine.waits, "only an engine that waits for a device has this law to keep"
    bench.clip(rule, arrays)  # constants are copied to the device once
    tensors = bench.tensors(arrays)
    with bench.unread():
        outcome = replace(bench, read=_zeros_like).clip_tensors(rule, tensors)
    assert outcome.result is not None
    norms = [row.norm_before for row in outcome.result.segments]
    assert norms, "the result cannot be read afterwards"
    assert all(map(math.isfinite, norms)), f"{rule!r}: the result, read afterwards, is {norms}"


# -- Of an engine, with any rule


def parts_combine_to_the_whole(bench: Bench, rule: Rule, arrays: list[Values]) -> None:
    """The measures of parts, combined by the norm, are the measure of the whole."""
    joined = np.concatenate([array.reshape(-1) for array in arrays])
    for parts in (arrays, np.array_split(joined, 3), np.array_split(joined, [1, len(joined)])):
        found = _combined_norm(bench, rule.norm, parts)
        expected = _norm(bench, rule.norm, Global(), [joined])[0]
        wrong = differences(np.array(found), np.array(expected), 2 * NORM_TOLERANCE, 0.0)
        assert not wrong, f"{rule.norm} of {len(parts)} parts on {bench.engine.name}: {wrong}"


def every_norm_is_right(bench: Bench, rule: Rule, arrays: list[Values]) -> None:
    """Each norm over each segment is that of the reference engine to 1e-6, and measuring writes nothing."""
    tensors = bench.tensors(arrays)
    before = [bench.values(tensor) for tensor in tensors]
    stamps = [bench.stamp(tensor) if bench.stamp else None for tensor in tensors]
    scope = Tensor() if isinstance(rule.scope, Group) else rule.scope
    found = np.array(_norm_of_tensors(bench, rule.norm, scope, tensors))
    expected = np.array(_norm_of_tensors(bench.oracle, rule.norm, scope, before))
    wrong = differences(found, expected, NORM_TOLERANCE, 0.0)
    assert not wrong, f"{rule.norm} over {rule.scope} on {bench.engine.name}: {wrong}"
    assert [bench.stamp(tensor) if bench.stamp else None for tensor in tensors] == stamps, "measuring wrote"
    assert all(map(same_bits, map(bench.values, tensors), before)), "measuring wrote"


def a_fused_path_equals_the_plain_one(bench: Bench, rule: Rule, arrays: list[Values]) -> None:
    """`clamp_` measures what `measure` does and writes what `map_` does."""
    low, high = rule.threshold.bounds(0)
    fused, plain = bench.tensors(arrays), bench.tensors(arrays)
    engine = bench.engine
    gathered = engine.gather(bench.handed(fused))
    (first,) = engine.reduce([Measured(gathered, Element(), rule.norm, engine.clamp_(gathered, low, high))])
    other, batch = bench.measured(plain, Element(), rule.norm)
    engine.map_(batch, rule.response, low, high)
    assert engine.to_host(first.total) == engine.to_host(other.total), "clamp_ measured other peaks than measure"
    assert engine.to_host(first.nonfinite) == engine.to_host(other.nonfinite), "clamp_ counted other elements"
    assert all(map(same_bits, map(bench.values, fused), map(bench.values, plain))), "clamp_ wrote other numbers"


# -- What the laws share


def with_nan(rule: AnyRule, arrays: list[Values]) -> tuple[list[Values], int | None]:
    """`arrays` with a NaN in the middle of the largest tensor that the rule is for, and the place of that tensor.

    None where all of these are empty, so that no NaN can come in.
    """
    served = [i for i in range(len(arrays)) if not isinstance(rule, Rules) or rule[f"t{i}"] is not None]
    index = max(served, key=lambda i: arrays[i].size)
    broken = [np.array(array) for array in arrays]
    if not broken[index].size:
        return broken, None
    broken[index].reshape(-1)[broken[index].size // 2] = np.nan
    return broken, index


def _require_untouched(outcome: Outcome, rule: AnyRule, why: str) -> None:
    for index, (before, after) in enumerate(zip(outcome.before, outcome.after, strict=True)):
        assert same_bits(before, after), f"{rule!r} changed t{index} {why}"
        assert not outcome.wrote[index], f"{rule!r} wrote t{index} {why}"


def _require_equal(
    bench: Bench, actual: list[Values], expected: list[Values], what: str, smallest: float = 1.0
) -> None:
    for index, (a, b) in enumerate(zip(actual, expected, strict=True)):
        wrong = differences(a, b, 2 * bench.tolerance, smallest * bench.smallest)
        assert not wrong, f"{what}: t{index} ({bench.dtype}): {wrong}"


def _require_agreement(bench: Bench, rule: AnyRule, outcome: Outcome, expected: Outcome) -> None:
    assert type(outcome.error) is type(expected.error), (
        f"{rule!r} on {bench.engine.name} ended with {outcome.error!r}, on the reference with {expected.error!r}"
    )
    skipped = outcome.result is not None and outcome.result.skipped
    if not (skipped and bench.engine.waits):  # then the optimizer does not look at them
        what = f"{rule!r} on {bench.engine.name} differs from the reference"
        _require_equal(bench, outcome.after, expected.after, what)
    if outcome.result is None or expected.result is None:
        return
    assert skipped == expected.result.skipped, f"{rule!r}: skipped on one engine and not on the other"
    if not (skipped and bench.engine.waits):  # it goes on where others stop, and the optimizer forgets it
        _require_same_report(bench, rule, outcome, expected)


def _require_same_report(bench: Bench, rule: AnyRule, outcome: Outcome, expected: Outcome) -> None:
    """The same segments; an action may differ where the measure is its threshold within the tolerance."""
    assert outcome.result is not None
    assert expected.result is not None
    if not bench.engine.waits:
        assert outcome.result.nonfinite == expected.result.nonfinite, f"{rule!r}: other non-finite elements counted"
    rows, truths = outcome.result.segments, expected.result.segments
    assert [row.name for row in rows] == [row.name for row in truths], f"{rule!r} calls the segments otherwise"
    ties = [
        math.isfinite(b.threshold) and abs(b.norm_before - b.threshold) <= 4 * bench.tolerance * b.threshold
        for b in truths
    ]
    for a, b, tie in zip(rows, truths, ties, strict=True):
        assert tie or a.action == b.action, f"{rule!r} decided {a} instead of {b}"
    room = _room(bench, rule, outcome)
    for field in ("norm_before", "threshold", "coefficient"):
        found, truth = (np.array([float(getattr(row, field)) for row in each]) for each in (rows, truths))
        if field == "coefficient":
            found = np.where(ties, truth, found)
        wrong = differences(found, truth, 4 * bench.tolerance, room)
        assert not wrong, f"{rule!r} on {bench.engine.name}: {field} of the segments {rows[:8]}: {wrong}"


def _room(bench: Bench, rule: AnyRule, outcome: Outcome) -> float:
    """How far a norm near 0 may be off: in units of the root of a second moment, over the smallest such root."""
    if not any(isinstance(single.threshold, SecondMoment) for single in rules_in(rule)):
        return 2 * bench.smallest
    roots = [root for weights in weights_like(outcome.before) for root in np.abs(weights).ravel() if root > 0]
    return 2 * bench.smallest / min(roots, default=1.0)


def _held(tensor: Gradient) -> Any:
    return tensor.value if isinstance(tensor, Slot) else tensor


def _zeros_like(tensor: Gradient) -> Values:
    """What stands for the numbers of a tensor where none may be read."""
    return np.zeros(tuple(_held(tensor).shape))


def _rows(values: Values, kept: Kept | None) -> list[Values]:
    first, end = (kept[0], kept[-1] + 1) if kept else (0, 0)
    shape = values.shape
    return list(np.moveaxis(values.reshape(*shape[:first], math.prod(shape[first:end]), *shape[end:]), first, 0))


def _along(g: Values, out: Values) -> float:
    """The number c >= 0 with which c g comes closest to `out`."""
    peak = np.abs(g).max(initial=0.0)
    if peak == 0.0:
        return 0.0
    unit = g / peak
    c = float((np.conj(unit) * out).sum().real / (np.abs(unit) ** 2).sum() / peak)
    return max(c, 0.0)


def _norm(bench: Bench, norm: Norm, scope: Scope, arrays: list[Values]) -> list[float]:
    return _norm_of_tensors(bench, norm, scope, bench.tensors(arrays))


def _norm_of_tensors(bench: Bench, norm: Norm, scope: Scope, tensors: list[Gradient]) -> list[float]:
    engine, (measure, batch) = bench.engine, bench.measured(tensors, scope, norm)
    if isinstance(scope, Element):
        return engine.to_host(measure.total)
    sizes = segments(scope, scope, engine.shapes(batch, scope), None, isinstance(norm, RMS)).sizes
    with np.errstate(all="ignore"):
        return engine.to_host(norm_of(measure, Rule(norm=norm), sizes))


def _combined_norm(bench: Bench, norm: Norm, parts: list[Values]) -> float:
    """The norm of all parts together, from the measure of each."""
    engine = bench.engine
    measure, _ = bench.measured(bench.tensors(parts), Tensor(), norm)
    rule, joined = Rule(norm=norm), Segments(1, [0] * len(parts), [sum(part.size for part in parts)])
    return engine.to_host(norm_of(combined(measure, rule, joined)[0], rule, joined.sizes))[0]
