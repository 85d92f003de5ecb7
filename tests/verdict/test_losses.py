"""Where a run ended, by its loss."""

import math

from gradclip.telemetry import Event
from gradclip.verdict.losses import differ, final_loss, losses_of, lower


def losses(*values):
    """A run with these losses."""
    return [Event(step, "", "cpu", 1.0, 1.0, math.inf, 1.0, False, loss=loss) for step, loss in enumerate(values)]


def test_the_final_loss_is_the_mean_of_the_last_tenth():
    assert final_loss(losses(*range(30))) == 28.0
    assert final_loss(losses(*range(31))) == 28.5  # of 31 the last four: a tenth, and no less
    assert final_loss(losses(3.0)) == 3.0
    assert final_loss(losses(*[1.0] * 19, math.nan)) == math.inf
    assert final_loss(losses(math.nan, *[1.0] * 19)) == 1.0
    assert final_loss(losses(1e308, 1e308)) == math.inf


def test_steps_without_a_loss_do_not_count():
    assert final_loss(losses()) is final_loss(losses(None, None)) is None
    assert final_loss(losses(5.0, None, 2.0, None)) == 2.0


def test_losses_so_large_that_their_sum_leaves_the_range_of_a_float_are_infinite():
    assert losses_of(losses(1e300, -1e300, 1e149)) == [math.inf, math.inf, 1e149]


def test_a_million_in_a_run_does_not_hide_that_it_is_worse():
    good, bad = [0.001, 0.005] * 15, [4.0, 5.0, 6.0] * 9 + [7.0, 8.0, 1e6]
    assert differ(good, bad)
    assert lower(good, bad)
    assert not lower(bad, good)


def test_runs_are_compared_step_by_step_only_where_they_have_equally_many():
    hard = [1.0, 9.0, 2.0, 8.0, 3.0, 7.0, 4.0, 6.0, 5.0, 5.0, 1.0, 9.0, 2.0, 8.0]
    less = [loss - 0.1 for loss in hard]
    assert lower(less, hard)
    assert not lower(less[1:], hard)


def test_whatever_is_finite_is_lower_than_what_is_not():
    assert lower([5.0], [math.inf, 1.0])
    assert not lower([math.inf, 1.0], [5.0])
    assert not lower([], [5.0])
