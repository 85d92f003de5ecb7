"""Suggestions on runs whose truth is planted."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from statistics import NormalDist

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gradclip
from advice.streams import drifting, lognormal, run_of, runaway, spiky, two_levels, warming_up
from gradclip.advice.bootstrap import CONFIDENCE, quantile_range
from gradclip.advice.replay import replay
from gradclip.advice.suggestion import suggest
from gradclip.rules.text import rule_from_text
from gradclip.telemetry import Event, Run
from gradclip.telemetry.spikes import FEW
from gradclip.verdict.shape import levels_of


def population_quantile(share, sigma=0.3):
    return math.exp(sigma * NormalDist().inv_cdf(share))


def test_of_a_steady_run_one_step_in_twenty_is_clipped():
    """The deviation of the quantile of 2000 norms is 0.3 sqrt(0.95 0.05 / 2000) / 0.103 = 1.4 % of it; 3 of them."""
    found = suggest(run_of(lognormal(2000, level=2.0)))
    assert found.kind == "steady"
    assert found.threshold == pytest.approx(2.0 * population_quantile(0.95), rel=0.043)
    assert found.clip_rate == pytest.approx(0.05, abs=0.002)
    assert found.low < found.threshold < found.high
    assert found.rule == f"global:{found.threshold:g}"
    assert found.leave  # the verdict: nothing stood out, so a threshold would have had little to do


def test_norms_that_explode_from_the_start_suggest_nothing():
    found = suggest(run_of([5.6 * 10.0**step for step in range(35)]))
    assert (found.kind, found.rule, found.leave) == ("exploding", None, False)
    assert "grew from 5.6 on" in found.reason


def check_range_holds_the_quantile(share, draws=200):
    """Of 200 ranges with a confidence of 90 % 167 hold it in all but one of a thousand cases (binomial)."""
    streams = (lognormal(2000, seed=seed, correlation=0.9) for seed in range(draws))
    ranges = [quantile_range(norms, share) for norms in streams]
    held = sum(low <= population_quantile(share) <= high for low, high in ranges)
    assert held / draws > CONFIDENCE - 3.1 * math.sqrt(CONFIDENCE * (1 - CONFIDENCE) / draws)


@pytest.mark.parametrize("share", [0.5, 0.95])
def test_the_range_holds_the_quantile_as_often_as_it_says(share):
    check_range_holds_the_quantile(share)


def test_all_spikes_are_clipped_and_few_other_steps():
    norms, spikes = spiky(2000)
    found = suggest(run_of(norms))
    assert found.kind == "spiky"
    assert all(norms[step] > found.threshold for step in spikes)
    ordinary = [norm for step, norm in enumerate(norms) if step not in spikes]
    assert sum(norm > found.threshold for norm in ordinary) <= 0.045 * len(norms)
    assert "1.0\xa0% are spikes" in found.reason


@pytest.mark.parametrize("factor", [4.0, 0.25])
def test_norms_that_drift_get_a_threshold_that_follows(factor):
    """One that walks clips more while norms rise; a fixed one would clip all of one end and nothing of the other."""
    norms = drifting(4000, factor)
    found = suggest(run_of(norms))
    assert found.kind == "drifting"
    outputs = replay(norms, rule_from_text(found.rule)).outputs
    for quarter in range(1, 4):
        part = slice(1000 * quarter, 1000 * (quarter + 1))
        rate = sum(out < norm for out, norm in zip(outputs[part], norms[part], strict=True)) / 1000
        assert 0.02 < rate < 0.09
    # The level of the last quarter is that of its middle, up to 19 % from its ends.
    assert found.threshold == pytest.approx(factor ** (7 / 8) * population_quantile(0.95), rel=0.2)


def test_a_level_that_was_left_for_good_is_no_second_kind_of_batch():
    norms = [*lognormal(30, seed=1), *[norm * 8.0 for norm in lognormal(6, seed=2)], *lognormal(24, seed=3)]
    once = [*[norm * 8.0 for norm in lognormal(12, seed=2)], *lognormal(48, seed=3)]
    assert levels_of(once) is None
    assert levels_of(norms) is None
    assert levels_of([norm for pair in zip(once[12:24] * 4, once[:12] * 4, strict=True) for norm in pair]) is not None


def test_what_levels_off_after_a_warm_up_does_not_drift():
    norms = warming_up(4000, until=800)
    found = suggest(run_of(norms))
    assert found.kind == "steady"
    assert 640 <= found.warmup <= 900  # at 640 the level is 1.8 still, at 800 it is 1
    assert found.threshold == pytest.approx(population_quantile(0.95), rel=0.05)


def test_two_kinds_of_batches_are_both_left_alone():
    norms = two_levels(2000)
    found = suggest(run_of(norms))
    assert found.kind == "two levels"
    assert found.clip_rate == 0.0
    assert max(norms) < found.threshold < 1.5 * max(norms)


def test_norms_without_an_edge_are_clipped_at_their_median():
    """The deviation of the median of 2000 is 1.25 / sqrt(2000) = 2.8 %; three of them."""
    found = suggest(run_of(lognormal(2000, sigma=1.0)))
    assert found.kind == "wide"
    assert found.threshold == pytest.approx(1.0, rel=0.084)


def test_norms_that_ran_away_are_clipped_at_a_quarter_of_the_small_ones_before():
    found = suggest(run_of(runaway(200, 400)))
    assert found.kind == "runaway"
    assert found.threshold == pytest.approx(0.25 * population_quantile(0.05, sigma=0.1), rel=0.05)
    assert "after 200 steps" in found.reason


def test_where_norms_ran_away_under_a_threshold_a_quarter_of_it_is_the_most():
    """With 0.6 every step is clipped, and training may go well: the norms do not say. With 20 only the jump is."""
    clipped = suggest(run_of(runaway(200, 400), threshold=0.6))
    assert (clipped.threshold, clipped.leave) == (0.15, True)
    assert not suggest(run_of(runaway(200, 400), threshold=20.0)).leave


def test_norms_may_run_away_in_several_steps():
    climb = [1.0, 1.3, 1.9, 2.9, 4.5, 7.0, 12.0, 60.0]
    found = suggest(run_of([*climb, *lognormal(400, 0.1, level=6.0)]))
    assert found.kind == "runaway"
    assert "after 7 steps" in found.reason


def test_a_short_run_that_falls_may_still_be_warming_up():
    assert suggest(run_of(drifting(60, 0.1))).kind != "drifting"
    assert suggest(run_of(drifting(600, 0.1))).kind == "drifting"


def test_tiny_first_norms_are_a_warm_up_and_not_what_the_others_ran_away_from():
    norms = lognormal(1000)
    found = suggest(run_of([*[1e-4] * 20, *norms]))
    assert found.kind == "steady"
    assert 20 <= found.warmup < 40  # in blocks of a hundredth of the run
    assert found.threshold == pytest.approx(suggest(run_of(norms)).threshold, rel=0.01)


@pytest.mark.parametrize("correlation", [0.0, 0.9])
def test_a_steady_run_is_rarely_taken_for_another(correlation):
    kinds = [suggest(run_of(lognormal(500, seed=seed, correlation=correlation))).kind for seed in range(60)]
    assert kinds.count("steady") + kinds.count("spiky") >= 58


def test_too_little_is_no_proposal():
    norms = lognormal(FEW)
    assert suggest(run_of(norms)).rule is not None
    few = suggest(run_of(norms[1:]))
    assert (few.kind, few.rule, few.leave) == ("too little data", None, False)
    assert "29 of 29" in few.reason
    assert suggest([]).rule is None


def test_what_breaks_early_is_recorded_again_under_a_quarter_of_its_least_norm():
    assert "ClipGradByGlobalNorm(0.415)" in suggest(run_of([1.66, 5.5, 3280.0, 1e24])).reason


def test_equal_norms_are_left_as_they_are():
    found = suggest(run_of([1.0] * 100))
    assert (found.kind, found.threshold, found.leave) == ("constant", None, True)


def test_zeros_say_nothing():
    norms = lognormal(500)
    assert suggest(run_of([0.0] * 100)).kind == "zeros"
    assert suggest(run_of([*norms, *[0.0] * 100])).threshold == suggest(run_of(norms)).threshold


def test_steps_that_are_not_finite_say_nothing_but_are_told():
    norms = lognormal(500)
    with_nan = [one for norm in norms for one in (norm, *[math.nan] * (norm > 1.5))]
    found = suggest(run_of(with_nan))
    assert found.threshold == suggest(run_of(norms)).threshold
    assert any("not finite" in caveat for caveat in found.caveats)
    assert suggest(run_of([math.nan, math.inf] * 100)).kind == "too little data"


def test_it_is_the_norm_before_clipping_that_counts():
    norms = lognormal(1000)
    assert suggest(run_of(norms, threshold=0.9)).threshold == suggest(run_of(norms)).threshold


def test_to_an_optimizer_that_normalises_a_threshold_is_no_learning_rate():
    events = run_of([1.0, 3.0, 1.1, 2.9] * 100, threshold=0.5)
    found = suggest(Run(events, {"optimizer": "AdamW"}))
    assert "every batch count alike" in found.caveats[0]
    assert "hidden learning rate" not in "".join(found.caveats)
    assert "hidden learning rate" in suggest(Run(events, {"optimizer": "SGD"})).caveats[0]


def test_where_every_step_is_clipped_the_threshold_is_a_hidden_learning_rate():
    """Norms of 1 and 3 in turns, clipped at 0.5: a quarter of the gradient is kept."""
    found = suggest(run_of([1.0, 3.0, 1.1, 2.9] * 100, threshold=0.5))
    assert found.leave
    assert "hidden learning rate" in found.caveats[0]
    assert "steps (100\N{NO-BREAK SPACE}%)" in found.caveats[0]
    assert "multiply the learning rate by 0.25" in found.caveats[0]


def test_the_threshold_of_single_tensors_is_not_compared_with_one_of_all():
    """Clipped steps come out at 2, above the threshold of each tensor, which lies in the range of the suggestion."""
    norms = lognormal(1000)
    limit = suggest(run_of(norms)).threshold
    of_tensors = [replace(event, norm_after=2.0) if event.clipped else event for event in run_of(norms, limit)]
    found = suggest(of_tensors)
    assert suggest(run_of(norms, limit)).leave
    assert not found.leave
    assert found.threshold == limit


def test_a_threshold_that_was_never_reached_is_told():
    found = suggest(run_of(lognormal(1000), threshold=100.0))
    assert "reached the threshold of 100, so training would have been the same" in found.caveats[0]
    assert not found.leave


def test_a_threshold_that_moved_is_told_with_how_far():
    """A schedule that raises it tenfold, three times; within a factor of 2 it is taken for one that stands."""
    norms = lognormal(1000)
    moved = [run_of(norms, 10.0 ** (step // 250))[step] for step in range(1000)]
    (said,) = [caveat for caveat in suggest(moved).caveats if "the threshold of this run moved" in caveat]
    assert "between 1 and 1,000, with a median of" in said
    still = [run_of(norms, 1.0 + step / 1000)[step] for step in range(1000)]
    assert not any("moved" in caveat for caveat in suggest(still).caveats)


def test_a_run_without_clipping_is_told():
    assert "Nothing was clipped in 1,000 steps" in suggest(run_of(lognormal(1000))).caveats[0]


def test_a_threshold_in_the_range_is_left_as_it_is():
    norms = lognormal(1000)
    found = suggest(run_of(norms))
    assert suggest(run_of(norms, threshold=found.threshold)).leave
    assert not suggest(run_of(norms, threshold=2.0 * found.threshold)).leave


def test_the_norm_of_elements_is_no_global_norm():
    found = suggest([Event(i, "by value", "cpu", 1.0 + i, 1.0, 1.0, 1.0, True, norm="Linf") for i in range(100)])
    assert (found.kind, found.rule) == ("another norm", None)
    assert "a largest absolute value" in found.reason


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_the_unit_of_the_gradient_does_not_matter(scale):
    """Rounding to three digits may differ by one in the third."""
    for norms in (lognormal(500), two_levels(500), spiky(500)[0], drifting(500, 4.0), runaway(200, 200)):
        one, other = suggest(run_of(norms)), suggest(run_of([scale * norm for norm in norms]))
        assert other.kind == one.kind
        assert other.threshold == pytest.approx(scale * one.threshold, rel=0.011)


@given(
    norms=st.lists(st.one_of(st.floats(min_value=0.0), st.floats(0.5, 2.0), st.just(math.nan)), max_size=30),
    times=st.integers(1, 5),
    threshold=st.one_of(st.just(math.inf), st.floats(1e-3, 1e3)),
)
@settings(max_examples=200, deadline=None)
def test_whatever_was_recorded_gets_an_answer_that_can_be_written(norms, times, threshold):
    found = suggest(run_of(norms * times, threshold))
    json.dumps(found.to_dict(), allow_nan=False)
    assert found.reason
    if found.rule is not None:
        assert 0.0 < found.threshold < math.inf
        replay(norms, rule_from_text(found.rule))


@pytest.mark.parametrize("norms", [lognormal(500), drifting(500, 4.0), two_levels(500)])
def test_what_is_pasted_is_the_rule(norms):
    found = suggest(run_of(norms))
    assert eval(found.expression, vars(gradclip)) == rule_from_text(found.rule)


def test_a_suggestion_is_plain_data_and_the_same_every_time():
    first, second = (suggest(run_of(spiky(500)[0])) for _ in range(2))
    data = json.loads(json.dumps(first.to_dict(), allow_nan=False))
    assert first == second
    assert data["threshold"] == first.threshold
    assert data["expression"] == f"ClipGradByGlobalNorm({first.threshold:g})"


def test_of_a_script_that_clips_in_a_wrong_way_nothing_is_proposed():
    found = suggest(run_of(lognormal(1000)), mistakes=2)
    assert (found.kind, found.rule, found.leave) == ("mistakes", None, False)
    assert "2 mistakes, which gradclip doctor names" in found.reason
