"""`decide` on plain numbers, each worked out by hand. Only the standard library and the module itself are needed."""

import math

import pytest

from gradclip import (
    L2,
    RMS,
    ClipGradByGlobalNorm,
    ClipGradByValue,
    Constant,
    Linf,
    Lp,
    Normalize,
    Raise,
    Rule,
    Schedule,
    SkipStep,
    Tensor,
    Zero,
)
from gradclip.engines.base import Measure
from gradclip.rules.arrays import SCALARS
from gradclip.rules.response import KEEP, PASS, RAISE, SCALE, SKIP, ZERO
from gradclip.rules.segments import Segments
from gradclip.step import decide as module
from gradclip.step.policy import POLICIES

ONE = Segments(1)


class Vector(list):
    """A list with the arithmetic of an array."""

    def _with(self, other, operation):
        others = other if isinstance(other, list) else [other] * len(self)
        return Vector(operation(a, b) for a, b in zip(self, others, strict=True))

    def __mul__(self, other):
        return self._with(other, lambda a, b: a * b)

    __rmul__ = __mul__

    def __truediv__(self, other):
        return self._with(other, lambda a, b: a / b)

    def __rtruediv__(self, other):
        return self._with(other, lambda a, b: b / a)

    def __gt__(self, other):
        return self._with(other, lambda a, b: a > b)

    def __eq__(self, other):
        return self._with(other, lambda a, b: a == b)

    def __ne__(self, other):
        return self._with(other, lambda a, b: a != b)

    __hash__ = None


class Vectors:
    """`ArrayFunctions` for `Vector`, element by element as SCALARS does it for one number."""

    def __getattr__(self, name):
        def each(*arguments):
            size = max(len(a) for a in arguments if isinstance(a, list))
            columns = [a if isinstance(a, list) else [a] * size for a in arguments]
            return Vector(getattr(SCALARS, name)(*row) for row in zip(*columns, strict=True))

        return each

    def any(self, a):
        return any(a)

    def array(self, values, like):
        return Vector(values)

    def indices(self, values, like):
        return list(values)

    def take(self, a, index):
        return Vector(a[i] for i in index)

    def combine(self, a, index, segments, how):
        parts = [[x for x, i in zip(a, index, strict=True) if i == segment] for segment in range(segments)]
        return Vector(sum(part) if how == "sum" else max(part, default=0.0) for part in parts)


VECTORS = Vectors()


def one(total, nonfinite=0.0, scale=1.0):
    return Measure(total, nonfinite, SCALARS, scale)


def many(totals, nonfinite=None):
    return Measure(Vector(totals), Vector(nonfinite or [0.0] * len(totals)), VECTORS)


def decided(measure, rule, on_nonfinite="keep", step=0, sizes=(), divisor=1.0):
    return module.decide(measure, rule, {}, module.Terms(POLICIES[on_nonfinite], step, divisor), sizes)


def swept(measure, rules, parts, on_nonfinite="keep"):
    """`decide_sweep` of rules whose thresholds remember nothing."""
    return module.decide_sweep(measure, rules, parts, [{}] * len(rules), module.Terms(POLICIES[on_nonfinite]))


def test_a_norm_above_the_threshold_is_scaled_to_it():
    decision = decided(one(25.0), ClipGradByGlobalNorm(2.0))
    assert decision[:4] == (5.0, 2.0, 0.4, SCALE)


@pytest.mark.parametrize("total", [0.0, 1.0, 4.0])
def test_a_norm_at_or_below_the_threshold_passes_with_exactly_1(total):
    decision = decided(one(total), ClipGradByGlobalNorm(2.0))
    assert (decision.coefficient, decision.action) == (1.0, PASS)


def test_a_norm_is_scale_times_the_root_of_the_total():
    assert decided(one(25.0, scale=1e25), ClipGradByGlobalNorm(1.0)).norm == 5e25
    assert decided(one(27.0, scale=2.0), Rule(norm=Lp(3.0))).norm == pytest.approx(6.0)
    assert decided(one(7.0, scale=2.0), Rule(norm=Linf())).norm == 14.0
    assert decided(one(100.0), Rule(norm=RMS()), sizes=[4]).norm == 5.0


def test_a_loss_scale_is_divided_out_of_the_norm():
    decision = decided(one(25.0 * 1024**2), ClipGradByGlobalNorm(2.0), divisor=1024.0)
    assert decision[:3] == (5.0, 2.0, 0.4)


def test_a_schedule_is_asked_for_the_step():
    rule = ClipGradByGlobalNorm(Schedule((0, 10.0), (10, 1.0)))
    assert decided(one(100.0), rule, step=10).coefficient == 0.1
    assert decided(one(100.0), rule, step=0).coefficient == 1.0


@pytest.mark.parametrize(
    ("policy", "coefficient", "action"),
    [("keep", 1.0, KEEP), ("skip", 0.0, SKIP), ("zero", 0.0, ZERO), ("raise", 0.0, RAISE)],
)
@pytest.mark.parametrize("total", [25.0, math.inf, math.nan])
def test_a_non_finite_element_decides_whatever_the_norm_is(policy, coefficient, action, total):
    decision = decided(one(total, nonfinite=1.0), ClipGradByGlobalNorm(1.0), policy)
    assert (decision.coefficient, decision.action) == (coefficient, action)


def test_a_norm_that_leaves_float64_is_non_finite_too():
    assert decided(one(math.inf), ClipGradByGlobalNorm(1.0)).action == KEEP


def test_each_segment_is_decided_alone():
    decision = decided(many([25.0, 0.25, 4.0], [0.0, 0.0, 1.0]), Rule(Tensor(), L2(), Constant(1.0)))
    assert list(decision.coefficient) == [0.2, 1.0, 1.0]
    assert list(decision.action) == [SCALE, PASS, KEEP]


@pytest.mark.parametrize(
    ("response", "coefficient", "action"),
    [(Zero(), 0.0, ZERO), (SkipStep(), 0.0, SKIP), (Raise(), 0.0, RAISE), (Normalize(), 0.2, SCALE)],
)
def test_a_response_gives_coefficient_and_action(response, coefficient, action):
    decision = decided(one(25.0), Rule(response=response))
    assert (decision.coefficient, decision.action) == (coefficient, action)


def test_rescaling_stages_fold_into_one_coefficient():
    """Norms 3 and 4 clipped to 1 each leave 1 and 1, together sqrt 2, which the second stage brings to 1."""
    stages = [Rule(Tensor(), L2(), Constant(1.0)), ClipGradByGlobalNorm(1.0)]
    plan = swept(many([9.0, 16.0]), stages, [Segments(2), Segments(1, [0, 0])])
    assert plan.decisions[1].norm[0] == pytest.approx(2**0.5)
    assert list(plan.coefficient) == pytest.approx([1 / 3 / 2**0.5, 1 / 4 / 2**0.5])


def test_folding_follows_the_norm():
    """L3: norms 3 and 4 clipped to 2 leave a total of 8 + 8, whose third root is the norm of the second stage."""
    stages = [Rule(Tensor(), Lp(3.0), Constant(2.0)), Rule(norm=Lp(3.0), threshold=Constant(1.0))]
    plan = swept(many([27.0, 64.0]), stages, [Segments(2), Segments(1, [0, 0])])
    assert plan.decisions[1].norm[0] == pytest.approx(16 ** (1 / 3))


def test_a_stage_that_zeroes_a_broken_segment_lets_the_others_through():
    stages = [Rule(Tensor(), L2(), Constant(100.0)), ClipGradByGlobalNorm(1.0)]
    plan = swept(many([math.nan, 16.0], [1.0, 0.0]), stages, [Segments(2), Segments(1, [0, 0])], "zero")
    assert list(plan.coefficient) == [0.0, 0.25]


def test_a_kept_segment_stays_broken_for_the_stages_after_it():
    stages = [Rule(Tensor(), L2(), Constant(1.0)), ClipGradByGlobalNorm(1.0)]
    plan = swept(many([math.nan, 16.0], [1.0, 0.0]), stages, [Segments(2), Segments(1, [0, 0])])
    assert plan.decisions[1].action[0] == KEEP
    assert list(plan.coefficient) == [1.0, 0.25]


def test_segments_combine_by_their_index():
    stages = [Rule(Tensor(), L2(), Constant(1.0))]
    plan = swept(many([9.0, 16.0, 0.25]), stages, [Segments(2, [0, 0, 1])])
    assert list(plan.decisions[0].norm) == [5.0, 0.5]
    assert list(plan.coefficient) == [0.2, 0.2, 1.0]


def test_maxima_combine_by_maximum():
    stages = [Rule(norm=Linf(), threshold=Constant(1.0))]
    plan = swept(many([3.0, 4.0]), stages, [Segments(1, [0, 0])])
    assert list(plan.decisions[0].norm) == [4.0]


def test_by_value_each_side_has_its_own_bound():
    """Largest positive 3 against 1.5, largest negative 1 against 2; a second tensor within both."""
    decision = module.elementwise_decision(many([3.0, 1.0, 1.0, 2.0]), ClipGradByValue(1.5, -2.0), {}, module.Terms())
    assert list(decision.norm) == [3.0, 1.0, 1.0, 2.0]
    assert list(decision.coefficient) == [0.5, 1.0, 1.0, 1.0]
    assert list(decision.action) == [SCALE, PASS, PASS, PASS]


@pytest.mark.parametrize(("policy", "action"), [("skip", SKIP), ("raise", RAISE), ("keep", SCALE), ("zero", SCALE)])
def test_by_value_a_broken_tensor_is_skipped_or_raised_for_as_a_whole(policy, action):
    decision = module.elementwise_decision(
        many([3.0, 1.0], [1.0, 0.0]), ClipGradByValue(1.5), {}, module.Terms(POLICIES[policy])
    )
    assert decision.action[0] == action


def test_only_a_finite_norm_that_is_not_0_may_be_learnt_from():
    seen = []

    class Spy(Constant):
        adapts = True

        def at(self, observed, state):
            seen.append(list(observed.learns))
            return 1.0, state

    decided(many([4.0, 0.0, math.nan, 9.0], [0.0, 0.0, 1.0, 1.0]), Rule(Tensor(), L2(), Spy(1.0)))
    assert seen == [[True, False, False, False]]


def test_a_single_segment_needs_no_arrays():
    plan = swept(one(25.0), [ClipGradByGlobalNorm(1.0)], [ONE])
    assert plan.coefficient == 0.2
