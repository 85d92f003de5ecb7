"""What estimators tell of the norms, against NumPy's float64 truth."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradclip import EMA, EMASpread, Moments, QuantileTracker, Window
from gradclip.engines.reference import NUMPY
from gradclip.rules.arrays import SCALARS

# A mean or a sum of n <= 40 terms in float64 is off by less than n 2^-53; spreads take a difference of near numbers,
# whose error relative to the larger is as small, and are compared relative to the largest norm.
CLOSE = 40 * 2.0**-52

norms = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=40)


def after(estimator, numbers, warmup=1):
    """The memory after learning `numbers`, one a step."""
    memory = estimator.empty(np.zeros(1), NUMPY)
    for number in numbers:
        memory = estimator.learnt(memory, np.array([float(number)]), warmup, NUMPY)
    return memory


def told(name, estimator, numbers, *arguments, warmup=1):
    return float(getattr(estimator, name)(after(estimator, numbers, warmup), *arguments, NUMPY)[0])


def test_an_ema_moves_by_its_share_towards_each_norm():
    assert told("mean", EMA(0.75), [8.0, 4.0, 16.0]) == 0.75 * (0.75 * 8 + 0.25 * 4) + 0.25 * 16


def test_an_ema_of_decay_0_is_the_last_norm():
    assert told("mean", EMA(0.0), [8.0, 4.0, 16.0]) == 16.0


def test_in_the_warm_up_an_ema_is_the_plain_mean():
    assert told("mean", EMA(0.9), [1.0, 2.0, 6.0], warmup=3) == pytest.approx(3.0, rel=CLOSE)


def test_an_ema_may_begin_as_the_smallest_norm():
    assert told("mean", EMA(0.5, "least"), [3.0, 2.0, 4.0], warmup=3) == 2.0
    assert told("mean", EMA(0.5, "least"), [3.0, 2.0, 4.0, 4.0], warmup=3) == 3.0


@given(norms)
def test_a_debiased_ema_weighs_each_norm_by_its_age(numbers):
    weights = 0.9 ** np.arange(len(numbers))[::-1]
    assert told("mean", EMA(0.9, "debiased"), numbers) == pytest.approx(np.average(numbers, weights=weights), rel=1e-12)


@given(norms)
def test_in_the_warm_up_mean_and_spread_are_the_plain_ones(numbers):
    memory = after(EMASpread(0.97), numbers, warmup=len(numbers))
    room = CLOSE * max(numbers)
    assert float(memory["mean"][0]) == pytest.approx(np.mean(numbers), abs=room)
    # the deviation is a root: an error e of the variance, relative to max^2, may be sqrt(e) of it near 0
    assert float(memory["spread"][0]) ** 2 == pytest.approx(np.var(numbers), abs=CLOSE * max(numbers) ** 2)


@given(norms)
def test_after_the_warm_up_mean_and_spread_weigh_by_age(numbers):
    """A weighted mean and variance with weights r (1-r)^age, the first norm with what is left."""
    count = len(numbers)
    weights = np.array([0.5 * 0.5**age for age in range(count)][::-1])
    weights[0] = 0.5 ** (count - 1)
    mean = np.average(numbers, weights=weights)
    memory = after(EMASpread(0.5), numbers)
    assert float(memory["mean"][0]) == pytest.approx(mean, rel=1e-12)
    truth = np.average((np.array(numbers) - mean) ** 2, weights=weights)
    assert float(memory["spread"][0]) ** 2 == pytest.approx(truth, rel=1e-9, abs=CLOSE * max(numbers) ** 2)


@given(norms)
def test_moments_are_debiased_averages_of_norm_and_square(numbers):
    ages = np.arange(len(numbers))[::-1]
    estimator = Moments(0.7, 0.9)
    assert told("mean", estimator, numbers) == pytest.approx(np.average(numbers, weights=0.7**ages), rel=1e-12)
    square = np.average(np.square(numbers), weights=0.9**ages)
    assert told("rms", estimator, numbers) == pytest.approx(math.sqrt(square), rel=1e-12)


@given(norms, st.integers(1, 12))
def test_a_window_tells_of_the_last_norms_only(numbers, length):
    last, window = np.array(numbers[-length:]), Window(length)
    assert told("mean", window, numbers) == pytest.approx(last.mean(), rel=CLOSE)
    deviation = last.std(ddof=1) if len(last) > 1 else 0.0
    assert told("spread", window, numbers) == pytest.approx(deviation, rel=1e-9, abs=CLOSE * max(last))


@given(norms, st.integers(1, 12), st.floats(0.0, 1.0))
def test_a_quantile_is_interpolated_as_numpy_does(numbers, length, q):
    truth = np.quantile(np.array(numbers[-length:]), q)
    assert told("quantile", Window(length), numbers, q) == pytest.approx(truth, rel=1e-12)


def test_empty_places_of_a_window_do_not_count():
    assert told("quantile", Window(100), [5.0, 7.0], 0.05) == pytest.approx(5.1)


def test_a_tracked_quantile_begins_as_the_first_norm_and_walks_by_factors():
    tracker = QuantileTracker(0.5, 0.2)
    assert told("mean", tracker, [4.0]) == 4.0
    assert told("mean", tracker, [4.0, 5.0]) == pytest.approx(4.0 * math.exp(0.1), rel=1e-15)
    assert told("mean", tracker, [4.0, 3.0]) == pytest.approx(4.0 * math.exp(-0.1), rel=1e-15)


def test_a_tracked_quantile_finds_it():
    """Over 3000 lognormal norms; its steps of 2 % leave it within 20 % of the truth."""
    numbers = np.random.default_rng(0).lognormal(size=3000)
    assert told("mean", QuantileTracker(0.9, 0.02), numbers) == pytest.approx(np.quantile(numbers, 0.9), rel=0.2)


@pytest.mark.parametrize("estimator", [EMA(0.9), EMASpread(0.9), Moments(0.7, 0.9), Window(5)], ids=str)
@pytest.mark.parametrize("unit", [1e-150, 1e150])
def test_no_norm_of_float64_leaves_its_range(estimator, unit):
    """Squares would be beyond 1e308 and below 1e-308."""
    numbers = [unit, 2 * unit, 1.5 * unit, 1.2 * unit]
    for name in estimator.provides - {"quantile"}:
        truth = told(name, estimator, [number / unit for number in numbers])
        assert told(name, estimator, numbers) / unit == pytest.approx(truth, rel=1e-12)


@pytest.mark.parametrize(
    "estimator", [EMA(0.9), EMA(0.9, "least"), EMASpread(0.9), Moments(0.7, 0.9), QuantileTracker()]
)
def test_plain_floats_give_what_arrays_give(estimator):
    memory = estimator.empty(0.0, SCALARS)
    for number in (3.0, 4.0, 2.0):
        memory = estimator.learnt(memory, number, 2, SCALARS)
    arrays = after(estimator, [3.0, 4.0, 2.0], 2)
    assert memory == {name: pytest.approx(float(value[0]), rel=1e-15) for name, value in arrays.items()}


def test_segments_are_remembered_apart():
    window = Window(2)
    memory = window.empty(np.zeros(3), NUMPY)
    for norms in ([1.0, 10.0, 100.0], [2.0, 20.0, 200.0], [3.0, 30.0, 300.0]):
        memory = window.learnt(memory, np.array(norms), 1, NUMPY)
    assert window.mean(memory, NUMPY).tolist() == [2.5, 25.0, 250.0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EMA(1.0), r"the decay of an EMA is a number in \[0, 1\), got 1.0: write 0.97"),
        (lambda: EMA("0.9"), r"the decay of an EMA is a number in \[0, 1\), got '0.9'"),
        (lambda: EMA(True), "got True"),
        (lambda: EMA(0.9, "first"), "is one of 'average', 'least', 'debiased', got 'first'"),
        (lambda: Window(0), r"holds from 1 to 1,000,000 norms, got 0: write Window\(128\)"),
        (lambda: Window(2.0), "got 2.0"),
        (lambda: QuantileTracker(0.5, 0.0), "is a number above 0 and finite, got 0.0: write 0.2"),
        (lambda: Moments(0.7, 1.5), "the decay of its square is a number in"),
    ],
)
def test_what_makes_no_estimator_is_refused(make, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make()
