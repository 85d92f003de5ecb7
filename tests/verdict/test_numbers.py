"""The numbers of a run, against numbers worked out by hand."""

import math
from dataclasses import replace

import pytest

from gradclip.report.bins import counts, log_edges
from gradclip.telemetry import Run
from gradclip.verdict.numbers import numbers_of, usual_norms
from gradclip.verdict.shape import quantile
from report.example_runs import run_of, step, with_losses


def numbers(run, scope=None):
    about = {} if scope is None else {"rule": {"scope": {"type": scope}}}
    return numbers_of(Run(run, about), usual_norms([event.norm_before for event in run]))


def test_the_numbers_of_five_steps():
    found = numbers(run_of([1.0, 2.0, 4.0, 8.0, math.nan], threshold=4.0, skipped=True))
    assert (found.steps, found.first, found.last, found.finite) == (5, 0, 4, 4)
    assert (found.clipped, found.skipped, found.nonfinite, found.escaped) == (1, 1, 1, 0)
    assert found.clip_rate == 0.25
    # The median of 1 2 4 8 is 3, and their 99th percentile lies 0.97 of the way from 4 to 8.
    assert (found.median, found.largest) == (3.0, 8.0)
    assert found.p99 == pytest.approx(4 + 0.97 * 4)
    # 1 + 2 + 4 + 4 of 15 is kept.
    assert found.kept == pytest.approx(11 / 15)
    assert found.thresholds == (4.0, 4.0)
    # The largest norm is 8 / 3 of the usual one.
    assert found.prominence == pytest.approx(8 / 3)
    assert (found.spikes, found.caught) == (0, 0)


def test_no_step_has_no_numbers():
    found = numbers(Run())
    assert (found.steps, found.finite, found.thresholds) == (0, 0, None)
    assert all(map(math.isnan, (found.median, found.p99, found.largest, found.kept, found.clip_rate)))


def losing(losses):
    return with_losses(run_of([1.0] * len(losses)), losses)


def test_the_loss_of_the_beginning_and_of_the_end_are_means_over_a_tenth_of_the_steps():
    found = numbers(losing([4.0, 2.0, *[9.0] * 16, 1.0, 0.5]))
    assert (found.losses, found.nonfinite_losses) == (20, 0)
    assert (found.first_loss, found.final_loss) == (3.0, 0.75)


def test_a_loss_that_is_not_finite_makes_the_mean_over_its_tenth_infinite():
    found = numbers(losing([math.nan, *[1.0] * 18, -math.inf]))
    assert (found.first_loss, found.final_loss, found.nonfinite_losses) == (math.inf, math.inf, 2)
    assert numbers(losing([1.0, math.nan, *[1.0] * 18])).final_loss == 1.0


def test_a_run_without_losses_has_none():
    found = numbers(losing([None] * 5))
    assert (found.losses, found.first_loss, found.final_loss) == (0, None, None)


def test_a_spike_is_a_norm_of_more_than_ten_usual_ones():
    found = numbers(run_of([1.0] * 50 + [10.0, 10.1, 30.0], threshold=20.0))
    assert (found.spikes, found.caught, found.prominence) == (2, 1, 30.0)


def test_a_spike_is_measured_against_the_steps_around_it():
    # The norm falls from 100 to 1: at the end 15 is a spike, at the beginning it would be none.
    found = numbers(run_of([100.0] * 100 + [1.0] * 99 + [15.0]))
    assert (found.spikes, found.prominence) == (1, 15.0)


def test_the_usual_norm_is_the_median_of_a_block_of_100_steps():
    norms = [1.0] * 100 + [2.0] * 130 + [math.nan, 0.0]
    assert usual_norms(norms) == [1.0] * 100 + [2.0] * 132
    assert all(map(math.isnan, usual_norms([0.0, math.inf])))
    assert usual_norms([]) == []


def test_a_step_that_the_rule_left_out_counts_as_acted_on():
    run = run_of([1.0] * 9 + [50.0])
    run[9] = replace(run[9], skipped=True, norm_after=0.0)
    assert numbers(run).clip_rate == 0.1


def test_a_nan_escapes_where_the_step_is_taken_with_it():
    assert numbers(run_of([1.0, math.nan])).escaped == 1
    assert numbers(run_of([1.0, math.nan], skipped=True)).escaped == 0
    zeroed = Run([replace(step(0, math.nan), norm_after=0.0, clipped=True)])
    assert numbers(zeroed).escaped == 0


def test_a_threshold_belongs_to_the_whole_gradient_where_one_coefficient_explains_the_norm():
    global_threshold = run_of([4.0, 1.0], threshold=2.0)
    assert numbers(global_threshold).global_threshold
    assert not numbers(global_threshold, scope="Tensor").global_threshold
    # Tensors of norm 3 and 4, each cut to 2: the coefficient is 2 / 4, the norm goes from 5 to sqrt(8).
    parts = Run([replace(step(0, 5.0, 2.0), norm_after=math.sqrt(8), coefficient=0.5)])
    assert not numbers(parts).global_threshold


def test_quantiles_lie_between_two_numbers_in_proportion():
    assert [quantile([1.0, 2.0, 4.0], share) for share in (0.0, 0.25, 0.5, 1.0)] == [1.0, 1.5, 2.0, 4.0]


def test_bins_hold_every_norm_above_0_once():
    norms = [0.0, math.nan, math.inf, 0.01, 0.1, 0.5, 10.0, 100.0]
    edges = log_edges(norms, bins=4)
    assert edges == pytest.approx([-2.0, -1.0, 0.0, 1.0, 2.0])
    assert counts(norms, edges) == [1, 2, 0, 2]


def test_norms_that_are_all_alike_have_bins_around_them():
    edges = log_edges([7.0] * 5, bins=10)
    assert edges[0] < math.log10(7.0) < edges[-1]
    assert sum(counts([7.0] * 5, edges)) == 5
    assert log_edges([0.0, math.nan]) == []
