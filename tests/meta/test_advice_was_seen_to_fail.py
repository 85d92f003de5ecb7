"""For replays and suggestions: bugs planted, on which their tests are red."""

from __future__ import annotations

import math

import pytest

import gradclip.advice.bootstrap
import gradclip.advice.judging
import gradclip.advice.replay
import gradclip.advice.search
import gradclip.advice.suggestion
import gradclip.verdict.losses
import gradclip.verdict.shape
from advice import test_by_trial, test_replay, test_search, test_suggest
from advice.streams import lognormal
from gradclip.advice.suggestion import Choice
from gradclip.rules.text import rule_from_text
from planting import Plant
from verdict import test_losses


def after_clipping(run):
    return [event.norm_after for event in run if math.isfinite(event.norm_after) and event.norm_after > 0.0]


def zeros_too(run):
    return [event.norm_before or 1e-30 for event in run if math.isfinite(event.norm_before)]


def learnt_nothing(measure, stages, parts, states, terms, decide=gradclip.advice.replay.decide_sweep):
    return decide(measure, stages, parts, [{}] * len(stages), terms)


def replayed(text, norms):
    """A replay of these norms is what the clipper does."""
    rule = rule_from_text(text)
    _, outputs = test_replay.clipped_for_real(rule, norms)
    assert gradclip.advice.replay.replay(norms, rule).outputs == pytest.approx(outputs, rel=1e-9)


def apart_and_lower(losses, others):
    return gradclip.verdict.losses.differ(losses, others) and sum(losses) < sum(others)


def single_steps(count):
    return 1


def searched(bottom, start):
    """A search finds the bottom of a valley."""
    test_search.check_search_finds_the_valley(SEARCH.search, bottom, start)


SUGGEST, SHAPE, SEARCH = gradclip.advice.suggestion, gradclip.verdict.shape, gradclip.advice.search
DRAWN = lognormal(60)
PLANTS = [
    Plant("the norm after clipping is read", test_suggest.test_it_is_the_norm_before_clipping_that_counts, (),
          SUGGEST, "usable", after_clipping),
    Plant("zeros count", test_suggest.test_zeros_say_nothing, (), SUGGEST, "usable", zeros_too),
    Plant("the warm-up is kept in", test_suggest.test_what_levels_off_after_a_warm_up_does_not_drift, (),
          SHAPE, "warm_up", lambda norms: 0),
    Plant("the bootstrap draws single steps", test_suggest.check_range_holds_the_quantile, (0.95, 60),
          gradclip.advice.bootstrap, "block_length", single_steps),
    Plant("a drift is not seen", test_suggest.test_norms_that_drift_get_a_threshold_that_follows, (4.0,),
          SHAPE, "drift_of", lambda norms: 1.0),
    Plant("a second level is not seen", test_suggest.test_two_kinds_of_batches_are_both_left_alone, (),
          SHAPE, "levels_of", lambda norms: None),
    Plant("norms that ran away are not seen",
          test_suggest.test_norms_that_ran_away_are_clipped_at_a_quarter_of_the_small_ones_before, (),
          SHAPE, "runaway_of", lambda norms: None),
    Plant("a spike counts as ordinary", test_suggest.test_all_spikes_are_clipped_and_few_other_steps, (),
          SUGGEST, "CHOICES", {**SUGGEST.CHOICES, "spiky": Choice(0.999)}),
    Plant("ordinary steps are clipped", test_suggest.test_all_spikes_are_clipped_and_few_other_steps, (),
          SUGGEST, "CHOICES", {**SUGGEST.CHOICES, "spiky": Choice(0.9)}),
    Plant("noise is taken for a drift", test_suggest.test_a_steady_run_is_rarely_taken_for_another, (0.0,),
          SHAPE, "drift_of", lambda norms: 1.01),
    Plant("a replay forgets", replayed, ("zclip:max_norm=None,warmup=3,z=1", DRAWN),
          gradclip.advice.replay, "decide_sweep", learnt_nothing),
    Plant("a skipped step counts as taken", test_replay.test_a_skipped_step_puts_out_nothing_and_counts_as_clipped, (),
          gradclip.advice.replay, "_output", lambda measure, coefficient, actions: measure.total.item()),
    Plant("a search never looks closer", searched, (2.0, 1.0), SEARCH, "SERIES", (1.0, 1.0, 3.0, 3.0)),
    Plant("a search moves by too little", searched, (1e-3, 30.0), SEARCH, "SERIES", [1.0 + n / 9 for n in range(81)]),
    Plant("the whole run counts as its end", test_losses.test_the_final_loss_is_the_mean_of_the_last_tenth, (),
          gradclip.verdict.losses, "PART", 1),
    Plant("the last loss is that of the end", test_losses.test_the_final_loss_is_the_mean_of_the_last_tenth, (),
          gradclip.verdict.losses, "end_of", lambda run: [run[-1].loss]),
    Plant("any gain is taken for one", test_by_trial.test_a_gain_within_the_noise_of_the_steps_is_none, (0.01, True),
          gradclip.verdict.losses, "SURE", 0.0),
    Plant("hard batches are taken for noise", test_by_trial.test_a_gain_within_the_noise_of_the_steps_is_none,
          (0.2, False), gradclip.advice.judging, "lower", apart_and_lower),
]  # fmt: skip


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.what)
def test_the_oracle_is_green_and_with_the_bug_red(plant):
    plant.check()
