"""Thresholds made from others."""

import math

import numpy as np
import pytest

from gradclip import EMA, L2, Given, Global, History, Ratio, Rule, Schedule, WeightRatio, max_of, min_of, until
from gradclip.clipper import Clipper
from gradclip.engines.reference import NUMPY, ReferenceEngine
from gradclip.rules.threshold import Observed
from gradclip.step.gradients import Gradients


def read(threshold, norm=1.0, step=0, weights=None, state=None, **more):
    array = np.array([float(norm)])
    weights = None if weights is None else np.array([float(weights)])
    limit, after = threshold.at(Observed(array, step, weights, np.array([True]), NUMPY, **more), state or {})
    return float(np.broadcast_to(limit, 1)[0]), after


def clipped(rule, gradient, weight):
    """One gradient after one clip, with its weight."""
    tensors = [np.array(gradient)]
    Clipper(rule).clip_gradients(
        Gradients(tensors, ["w"].__getitem__, None, lambda: [np.array(weight)]), ReferenceEngine()
    )
    return tensors[0].tolist()


def test_a_weight_ratio_is_a_share_of_the_norm_of_the_weights():
    assert read(WeightRatio(0.01), weights=5.0)[0] == 0.05
    assert clipped(Rule(Global(), L2(), WeightRatio(0.5)), [6.0, 8.0], [0.0, 10.0]) == [3.0, 4.0]


def test_small_weights_count_as_the_floor():
    assert read(WeightRatio(0.01, floor=1e-3), weights=0.0)[0] == 1e-5


def test_without_a_floor_a_gradient_of_zero_weights_is_not_clipped():
    assert clipped(Rule(Global(), L2(), WeightRatio(0.5)), [6.0, 8.0], [0.0, 0.0]) == [6.0, 8.0]


def test_a_weight_that_is_not_finite_clips_nothing():
    assert clipped(Rule(Global(), L2(), WeightRatio(0.5, 1e-3)), [6.0, 8.0], [math.nan, 1.0]) == [6.0, 8.0]


def test_a_weight_ratio_may_follow_the_step():
    assert [read(WeightRatio(Schedule((0, 0.2), (10, 0.1))), step=step, weights=1.0)[0] for step in (0, 10)] == [
        0.2,
        0.1,
    ]


def test_the_smallest_and_the_largest_of_several():
    assert read(min_of(3.0, WeightRatio(1.0)), weights=2.0)[0] == 2.0
    assert read(max_of(3.0, WeightRatio(1.0)), weights=2.0)[0] == 3.0


def test_each_part_has_a_memory_of_its_own():
    both = min_of(History(EMA(0.0), Ratio(2.0)), History(EMA(0.0), Ratio(3.0)))
    _, state = read(both, 1.0)
    assert sorted(state) == ["0.count", "0.mean", "1.count", "1.mean"]
    assert read(both, 9.0, state=state)[0] == 2.0


def test_one_threshold_until_a_step_then_another():
    switched = until(2, 1.0, WeightRatio(1.0))
    assert [read(switched, step=step, weights=7.0)[0] for step in range(4)] == [1.0, 1.0, 7.0, 7.0]
    compiled = [
        float(switched.at(Observed(np.ones(1), np.array(step), np.array([7.0]), np.array([True]), NUMPY), {})[0][0])
        for step in (1, 2)
    ]
    assert compiled == [1.0, 7.0]


def test_what_comes_later_learns_from_the_first_step():
    switched = until(2, 1.0, History(EMA(0.0), Ratio(2.0)))
    _, state = read(switched, 5.0)
    assert read(switched, 1.0, step=2, state=state)[0] == 10.0


def test_combined_constants_follow_the_step_alone():
    assert not min_of(1.0, Schedule((0, 2.0))).adapts
    assert min_of(1.0, Schedule((0, 2.0), (10, 0.5))).value(10) == 0.5


def test_no_gradient_passes_while_a_given_number_is_above_its_threshold():
    loss = Given(History(EMA(0.0), Ratio(2.0)))
    _, state = read(loss, given={"loss": np.array([3.0])})
    assert read(loss, given={"loss": np.array([5.9])}, state=state)[0] == math.inf
    assert read(loss, given={"loss": np.array([6.1])}, state=state)[0] < 1e-300


def test_a_given_number_that_is_not_finite_is_neither_compared_nor_learnt():
    loss = Given(History(EMA(0.0), Ratio(2.0)))
    _, state = read(loss, given={"loss": np.array([3.0])})
    for bad in (math.nan, math.inf):
        limit, after = read(loss, given={"loss": np.array([bad])}, state=state)
        assert limit == math.inf
        assert after == state


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: WeightRatio(0.0), "the ratio to the weights is a number above 0 and finite, got 0.0: write 0.01"),
        (lambda: WeightRatio(0.1, -1.0), "floor is a number from 0 and finite, got -1.0"),
        (lambda: min_of(), "Least needs at least one threshold"),
        (lambda: min_of(0.0), "a threshold must be above 0, got 0.0"),
        (lambda: until(0, 1.0, 2.0), r"a whole number of steps from 1, got 0: until\(9, 1.0, None\)"),
    ],
)
def test_what_makes_no_threshold_is_refused(make, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make()
