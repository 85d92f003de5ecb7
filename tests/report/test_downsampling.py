"""Down-sampling: no spike is lost, and the line keeps its order."""

import math

import pytest

from gradclip.report import downsampling
from gradclip.report.downsampling import buckets
from report.example_runs import noise

SPIKES = {3, 12_345, 49_999, 77_777, 99_999}


def check_spikes_stay(most=1000):
    norms = noise(100_000, SPIKES)
    norms[31_415] = 1e-9
    kept = downsampling.thin(norms, most)
    assert len(kept) <= most
    assert kept == sorted(kept)
    assert SPIKES | {31_415} <= set(kept)


def test_a_spike_among_100_000_steps_stays():
    check_spikes_stay()


def test_few_values_all_stay():
    assert downsampling.thin([3.0, 1.0, 2.0], 3) == [0, 1, 2]


def test_the_smallest_and_the_largest_of_each_bucket_stay_in_the_order_of_time():
    assert downsampling.thin([5.0, 1.0, 2.0, 3.0, 9.0, 4.0], 4) == [0, 1, 3, 4]


def test_a_value_that_is_not_finite_is_neither_the_smallest_nor_the_largest():
    assert downsampling.thin([math.nan, 2.0, 1.0, math.inf, -math.inf, 3.0, 7.0, 5.0], 4) == [1, 2, 5, 6]


def test_where_nothing_is_finite_the_line_breaks():
    assert downsampling.thin([math.nan] * 4 + [1.0, 2.0, 3.0, 4.0], 4) == [0, 4, 7]


@pytest.mark.parametrize(("length", "most"), [(10, 3), (3, 10), (1, 1), (100_000, 1200)])
def test_buckets_hold_every_place_once_and_differ_by_one_at_most(length, most):
    found = buckets(length, most)
    assert [place for bucket in found for place in bucket] == list(range(length))
    assert len(found) == min(length, most)
    assert max(map(len, found)) - min(map(len, found)) <= 1


def test_nothing_has_no_buckets():
    assert buckets(0, 5) == []
