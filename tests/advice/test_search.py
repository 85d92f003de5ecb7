"""The search by trial: on planted landscapes of the loss over the threshold, whose best threshold is known."""

import math

from hypothesis import given
from hypothesis import strategies as st

from advice.streams import drifting, lognormal, run_of
from gradclip.advice.search import MOST, best_of, search, start_from
from gradclip.advice.suggestion import suggest


def valley(bottom):
    """A loss that is lowest at this threshold, and rises to both sides by 1 a decade."""
    return lambda threshold: abs(math.log10(threshold / bottom))


def check_search_finds_the_valley(find, bottom, start):
    """The best of the trials is near enough to the bottom."""
    best = best_of(find(valley(bottom), start))
    # half of the widest gap between neighbours: from 5 to 10, and from 1 to 2
    assert abs(math.log10(best.threshold / bottom)) <= math.log10(2.0) / 2 + 1e-9


@given(st.floats(-3.0, 3.0), st.floats(-1.5, 1.5))
def test_the_bottom_of_a_valley_is_found_from_some_decades_away(place, away):
    check_search_finds_the_valley(search, 10.0**place, 10.0 ** (place + away))


def test_no_threshold_is_trained_twice_and_there_are_no_more_than_asked_for():
    for most in (1, 2, 5, MOST):
        tried = []
        trials = search(lambda threshold, tried=tried: tried.append(threshold) or valley(1e-4)(threshold), 1e2, most)
        assert [trial.threshold for trial in trials] == tried
        assert len(set(tried)) == len(tried) == most


def test_where_training_breaks_the_threshold_goes_down_until_it_does_not():
    def train(threshold):
        return math.nan if threshold > 0.4 else 1.0 - threshold

    assert best_of(search(train, 100.0)).threshold == 0.3


def test_a_loss_that_no_threshold_changes_keeps_the_largest():
    trials = search(lambda threshold: 1.0, 1.0, most=4)
    assert best_of(trials).threshold == 1.0


def test_above_all_norms_the_search_goes_down():
    """Where nothing is clipped the loss is the same for all thresholds, and the valley lies below."""
    assert best_of(search(lambda threshold: valley(1.0)(min(threshold, 30.0)), 3e2)).threshold == 1.0


def test_a_search_starts_where_the_norms_suggest():
    steady = run_of(lognormal(500))
    assert start_from(steady) == suggest(steady).threshold


def test_where_the_level_moves_a_search_starts_at_the_median():
    moving = drifting(500, 5.0)
    assert suggest(run_of(moving)).kind == "drifting"
    assert start_from(run_of(moving)) == sorted(moving)[249] / 2 + sorted(moving)[250] / 2


def test_of_a_few_norms_the_smallest_is_the_start():
    assert start_from(run_of([8.0, 1e6, math.inf, math.nan, 0.0])) == 2.0
    assert start_from(run_of([math.nan, 0.0])) is None
