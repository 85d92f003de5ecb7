"""Each test of what thresholds remember is green, and red when a bug is planted."""

import math

import pytest

import test_memory as memories
from gradclip import EMA, EMASpread, Given, History, Moments, QuantileTracker, WeightRatio, Window, ZReciprocal
from gradclip.rules import combine, estimators
from gradclip.rules.combine import Least, Switched
from gradclip.step.memory import Remembered
from planting import Plant
from rules import test_combine as combining
from rules import test_estimators as telling
from rules import test_history as following


def from_the_beginning(self, memory, norm, warmup, xp):
    return {**memory, "count": memory["count"] + 1.0, "mean": memory["mean"] + norm / 3.0}


def never(self, memory, norm, limit, observed):
    return norm, observed.learns


def always_the_limit(self, memory, norm, limit, observed):
    return observed.xp.where(norm > limit, limit, norm), observed.learns


def zeros_count(self, memory, xp):
    return float(self.length)


PLANTS = [
    Plant(
        "the warm-up weighs by age",
        telling.test_in_the_warm_up_an_ema_is_the_plain_mean,
        (),
        estimators,
        "rate_of",
        lambda count, decay, warmup, xp: 1.0 - decay,
    ),
    Plant(
        "the smallest is forgotten",
        telling.test_an_ema_may_begin_as_the_smallest_norm,
        (),
        EMA,
        "learnt",
        from_the_beginning,
    ),
    Plant(
        "no bias is taken out",
        telling.test_a_debiased_ema_weighs_each_norm_by_its_age,
        (),
        estimators,
        "moved",
        lambda mean, norm, rate, xp: mean + 0.1 * (norm - mean),
    ),
    Plant(
        "the spread of the original",
        telling.test_after_the_warm_up_mean_and_spread_weigh_by_age,
        (),
        estimators,
        "hypotenuse",
        lambda a, b, xp: a + b,
    ),
    Plant(
        "squares leave the range",
        telling.test_no_norm_of_float64_leaves_its_range,
        (EMASpread(0.9), 1e150),
        estimators,
        "hypotenuse",
        lambda a, b, xp: xp.sqrt(a * a * a + b * b * b),
    ),
    Plant(
        "the moments of the norm alone",
        telling.test_moments_are_debiased_averages_of_norm_and_square,
        (),
        Moments,
        "rms",
        Moments.mean,
    ),
    Plant("empty places count", telling.test_empty_places_of_a_window_do_not_count, (), Window, "_held", zeros_count),
    Plant(
        "a biased deviation",
        telling.test_a_window_tells_of_the_last_norms_only,
        (),
        Window,
        "_held",
        lambda self, memory, xp: xp.maximum(memory["count"], 1.0) + 1.0,
    ),
    Plant(
        "a tracker that stands",
        telling.test_a_tracked_quantile_finds_it,
        (),
        QuantileTracker,
        "learnt",
        from_the_beginning,
    ),
    Plant(
        "the raw norm is learnt",
        following.test_what_is_learnt_from_a_norm_above_the_threshold,
        ("limit", [2.0, 4.0, 2.0]),
        History,
        "_sample",
        never,
    ),
    Plant(
        "the ceiling is not known",
        following.test_clipped_is_what_all_thresholds_beside_it_left,
        (),
        Least,
        "_seen",
        lambda self, observed, limits: observed,
    ),
    Plant(
        "never readmitted",
        following.test_after_enough_norms_above_it_in_a_row_the_raw_one_is_learnt,
        (),
        History,
        "_sample",
        always_the_limit,
    ),
    Plant(
        "a threshold in the warm-up",
        following.test_there_is_no_threshold_until_the_warm_up_is_learnt,
        (),
        History,
        "_limit",
        lambda self, memory, norm, xp: self.level.limit(self.estimator, memory, norm, xp),
    ),
    Plant(
        "it does not fall to the mean",
        following.test_z_reciprocal_falls_from_its_edge_to_the_mean,
        (),
        ZReciprocal,
        "limit",
        lambda self, estimator, memory, norm, xp: estimator.mean(memory, xp) + self.z * estimator.spread(memory, xp),
    ),
    Plant(
        "no floor",
        combining.test_small_weights_count_as_the_floor,
        (),
        WeightRatio,
        "at",
        lambda self, observed, state: (self.ratio * observed.weights, state),
    ),
    Plant(
        "one memory for all parts",
        combining.test_each_part_has_a_memory_of_its_own,
        (),
        combine,
        "_part_of",
        lambda state, number: {},
    ),
    Plant(
        "switched too late",
        combining.test_one_threshold_until_a_step_then_another,
        (),
        Switched,
        "combined",
        lambda self, limits, step, xp: limits[0],
    ),
    Plant(
        "a NaN is compared",
        combining.test_a_given_number_that_is_not_finite_is_neither_compared_nor_learnt,
        (),
        Given,
        "at",
        lambda self, observed, state: (math.nan, {}),
    ),
    Plant(
        "memories by place",
        memories.test_a_tensor_that_was_away_goes_on_with_its_memory,
        (),
        Remembered,
        "of",
        lambda self, live, like, xp: {name: value[: len(like)] for name, value in self.state.items()},
    ),
    Plant(
        "those who are away are forgotten",
        memories.test_a_tensor_that_was_away_goes_on_with_its_memory,
        (),
        Remembered,
        "after",
        lambda self, state, live, like, xp: Remembered(state, live),
    ),
]


@pytest.mark.parametrize("plant", PLANTS, ids=[plant.what for plant in PLANTS])
def test_a_planted_bug_turns_it_red(plant):
    plant.check()
