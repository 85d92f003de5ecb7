"""A threshold that follows the norms: what it is, what it learns, and when."""

import math

import numpy as np
import pytest

from gradclip import EMA, EMASpread, History, MeanOverRMS, Moments, Quantile, Ratio, Sigma, Window, ZReciprocal, min_of
from gradclip.engines.reference import NUMPY
from gradclip.rules.threshold import Observed


def thresholds(threshold, norms):
    """The threshold of each step, for one segment with these norms; NaN and 0 are not learnt."""
    state, found = {}, []
    for step, norm in enumerate(norms):
        array = np.array([float(norm)])
        learns = np.isfinite(array) & (array > 0)
        limit, state = threshold.at(Observed(array, step, None, learns, NUMPY), state)
        found.append(float(np.broadcast_to(limit, 1)[0]))
    return found


LAST = EMA(0.0)


def test_there_is_no_threshold_until_the_warm_up_is_learnt():
    assert thresholds(History(LAST, Ratio(2.0), warmup=3), [1, 1, 1, 1]) == [math.inf, math.inf, math.inf, 2.0]


def test_steps_that_teach_nothing_do_not_count_for_the_warm_up():
    assert thresholds(History(LAST, Ratio(2.0), warmup=2), [1, math.nan, 0, 1, 1]) == [math.inf] * 4 + [2.0]


def test_a_step_that_teaches_nothing_leaves_the_threshold_where_it_was():
    assert thresholds(History(LAST, Ratio(2.0)), [1, 3, math.nan, 0, math.inf, 1])[2:] == [6.0, 6.0, 6.0, 6.0]


def test_this_step_counts_where_it_is_asked_to():
    median = History(Window(10), Quantile(0.5), current=True)
    assert thresholds(median, [4.0, 2.0, 9.0]) == [4.0, 3.0, 4.0]


@pytest.mark.parametrize(
    ("feed", "expected"),
    [
        ("raw", [2.0, 200.0, 2.0]),
        ("limit", [2.0, 4.0, 2.0]),
        ("clipped", [2.0, 4.0, 2.0]),
        ("accepted", [2.0, 2.0, 2.0]),
    ],
)
def test_what_is_learnt_from_a_norm_above_the_threshold(feed, expected):
    """Twice the last norm of 1, 100, 1, 1."""
    assert thresholds(History(LAST, Ratio(2.0), feed), [1, 100, 1, 1])[1:] == expected


def test_clipped_is_what_all_thresholds_beside_it_left():
    """Half the last norm, beside a ceiling of 0.1: a norm of 1 is learnt as 0.1, or as itself."""
    assert thresholds(min_of(0.1, History(LAST, Ratio(0.5), "clipped")), [1, 1])[1] == 0.05
    assert thresholds(min_of(0.1, History(LAST, Ratio(0.5), "limit")), [1, 1])[1] == 0.1


def test_after_enough_norms_above_it_in_a_row_the_raw_one_is_learnt():
    found = thresholds(History(LAST, Ratio(1.0), "limit", readmit=3), [1, 5, 5, 5, 5, 5])
    assert found == [math.inf, 1.0, 1.0, 1.0, 5.0, 5.0]


def test_a_norm_below_the_threshold_starts_the_count_again():
    found = thresholds(History(LAST, Ratio(1.0), "accepted", readmit=2), [1, 5, 1, 5, 1, 5, 5, 5])
    assert found == [math.inf, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 5.0]


def test_a_nan_does_not_start_the_count_again():
    assert thresholds(History(LAST, Ratio(1.0), "limit", readmit=2), [1, 5, math.nan, 5, 5])[-1] == 5.0


def test_sigma_is_so_many_deviations_above_the_mean():
    found = thresholds(History(Window(10), Sigma(2.0), warmup=3), [1.0, 2.0, 3.0, 9.0])
    assert found[-1] == pytest.approx(2.0 + 2.0 * 1.0, rel=1e-15)


def test_z_reciprocal_falls_from_its_edge_to_the_mean():
    """Mean 2 and deviation 1 of 1 and 3: for z = 2 the edge is at 4; at 6 it is 2 + 2 * 2 / 4."""
    history = History(EMASpread(0.5), ZReciprocal(2.0), warmup=2)
    for norm, limit in ((3.9, math.inf), (4.0, math.inf), (6.0, 3.0), (1e9, 2.0)):
        assert thresholds(history, [1.0, 3.0, norm])[-1] == pytest.approx(limit, rel=1e-8)


def test_equal_norms_have_no_spread_and_any_larger_one_is_an_outlier():
    assert thresholds(History(EMASpread(0.9), ZReciprocal(2.0), warmup=2), [1.0, 1.0, 1.0, 1.1])[2:] == [math.inf, 1.0]


def test_mean_over_rms_is_1_where_norms_are_equal():
    assert thresholds(History(Moments(0.7, 0.9), MeanOverRMS(), current=True), [3.0, 3.0]) == pytest.approx([1.0, 1.0])


def test_it_says_what_it_is():
    history = History(EMA(0.97), Ratio(2.0), "limit", warmup=25, readmit=10)
    notes = "after 25, learning the limit for an outlier, its norm after 10 in a row"
    assert str(history) == f"2 times the mean of an EMA of 0.97 ({notes})"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: History(EMA(0.9), Sigma(2.0)),
            "Sigma asks for the spread of the norms, which EMA does not tell: EMASpread",
        ),
        (lambda: History(EMA(0.9), Quantile(0.5)), "which EMA does not tell: Window does"),
        (lambda: History(0.9, Ratio(2.0)), r"takes an estimator and a level, got 0.9 .*: write History\(EMA"),
        (
            lambda: History(EMA(0.9), Ratio(2.0), "cooked"),
            "feed is one of 'raw', 'limit', 'clipped', 'accepted', got 'cooked'",
        ),
        (lambda: History(EMA(0.9), Ratio(2.0), warmup=0), "warmup is a whole number of norms from 1, got 0"),
        (lambda: History(Window(8), Ratio(2.0), warmup=9), "the last 8 norms can never be 9 norms"),
        (lambda: History(EMA(0.9), Ratio(2.0), readmit=3), "with feed='raw' every norm is learnt"),
        (
            lambda: History(EMA(0.9), Ratio(2.0), "limit", readmit=0),
            "readmit is a whole number of steps from 1 or None",
        ),
        (lambda: History(EMA(0.9), Ratio(2.0), "limit", current=True), "use feed='raw'"),
        (lambda: Ratio(0.0), "is a number above 0 and finite, got 0.0: write 1.05"),
        (lambda: Sigma("6"), "is a number above 0 and finite, got '6': write 6.0"),
        (lambda: Quantile(1.1), r"is a number in \[0, 1\)"),
    ],
)
def test_what_makes_no_history_is_refused(make, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make()
