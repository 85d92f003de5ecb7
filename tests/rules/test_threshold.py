"""Thresholds: what is refused, and what to write instead."""

import json
import math
from fractions import Fraction

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from gradclip import (
    AGC,
    LARC,
    AutoClip,
    Bounds,
    ClipGradByGlobalNorm,
    ClipGradByNorm,
    ClipGradByValue,
    Constant,
    Lp,
    NormalizedGradient,
    Schedule,
    SkipSpikes,
    ZClip,
    from_dict,
    norm_of_order,
)

MEASURE = "None to measure only"
NUMBERS = [1, 1.0, np.float32(1.0), np.float64(1.0), np.int64(1), np.array(1.0), torch.tensor(1.0), jnp.array(1.0)]
REFUSED = [
    (0, ValueError, r"must be above 0, got 0.0: to drop the gradients call zero_grad\(\)"),
    (-1, ValueError, r"must be above 0, got -1.0: a negative threshold would turn the gradients round; write its abs"),
    (-math.inf, ValueError, r"must be above 0, got -inf: a negative threshold"),
    (math.nan, ValueError, r"must be above 0, got nan: a comparison with NaN never clips; write a finite number"),
    (True, TypeError, rf"must be a number above 0, got True: write 1.0, or {MEASURE}"),
    (False, TypeError, r"must be a number above 0, got False"),
    ("1.0", TypeError, rf"must be a number above 0, got '1.0': write 1.0, or {MEASURE}"),
    (1j, TypeError, r"must be a number above 0, got 1j"),
    ([1.0], TypeError, r"must be a number above 0"),
    (np.bool_(True), TypeError, r"must be a number above 0"),
    (np.array([1.0, 2.0]), TypeError, r"must be a number above 0"),
    (np.array([1.0]), TypeError, r"must be a number above 0"),
    (np.array(True), TypeError, r"must be a number above 0"),
    (np.array("1"), TypeError, r"must be a number above 0"),
    (torch.tensor([1.0]), TypeError, r"must be a number above 0"),
    (torch.tensor(1j), TypeError, r"must be a number above 0"),
    (torch.tensor(0.0), ValueError, r"must be above 0, got 0.0"),
    (torch.tensor(math.nan), ValueError, r"must be above 0, got nan"),
]


@pytest.mark.parametrize(("value", "error", "remedy"), REFUSED)
@pytest.mark.parametrize(
    ("make", "name"),
    [
        (Constant, "a threshold"),
        (ClipGradByNorm, "clip_norm"),
        (ClipGradByGlobalNorm, "clip_norm"),
        (ClipGradByValue, "max"),
        (lambda value: Bounds(value, -1.0), "max"),
        (lambda value: Schedule((3, value)), "the scheduled threshold at step 3"),
    ],
)
def test_a_limit_that_makes_no_sense_is_refused_by_name_with_a_remedy(make, name, value, error, remedy):
    with pytest.raises(error, match=f"^{name} {remedy}"):
        make(value)


@pytest.mark.parametrize("value", [*NUMBERS, Fraction(1, 1)])
def test_a_number_of_any_library_is_a_limit(value):
    for limit in (Constant(value).limit, Bounds(value, -value).max, Schedule((0, value)).points[0][1], Lp(value).p):
        assert (limit, type(limit)) == (1.0, float)
    for rule in (ClipGradByGlobalNorm(value), ClipGradByValue(value, -value), ClipGradByNorm(value, value)):
        assert from_dict(json.loads(json.dumps(rule.to_dict()))) == rule


@pytest.mark.parametrize("value", NUMBERS)
def test_a_number_of_any_library_is_a_parameter_of_a_method(value):
    """Half of it, where the parameter is a share."""
    for make in (
        lambda: ZClip(value, value / 2),
        lambda: AutoClip(value),
        lambda: AGC(value, floor=value),
        lambda: LARC(value, lr=value),
        lambda: SkipSpikes(value),
        lambda: NormalizedGradient(epsilon=value),
    ):
        assert from_dict(json.loads(json.dumps(make().to_dict()))) == make()


@pytest.mark.parametrize("value", [None, math.inf])
def test_no_limit_is_infinity(value):
    assert Constant(value).value(0) == math.inf


@pytest.mark.parametrize(
    ("value", "error", "remedy"),
    [
        (1.0, ValueError, r"min must be below 0 < max, got min=1.0.*write min=None for -max"),
        (0.0, ValueError, r"min must be below 0 < max, got min=0.0"),
        (math.nan, ValueError, r"min must be below 0 < max, got min=nan"),
        (True, TypeError, r"min must be a number below 0 or None, got True: None means -max"),
        ("-1", TypeError, r"min must be a number below 0 or None, got '-1'"),
    ],
)
def test_a_lower_bound_that_makes_no_sense_is_refused(value, error, remedy):
    with pytest.raises(error, match=remedy):
        ClipGradByValue(2.0, value)


def test_bounds_are_an_interval_around_0():
    assert ClipGradByValue(2.0, -1.0).threshold.bounds(0) == (-1.0, 2.0)
    assert ClipGradByValue(2.0).threshold.bounds(0) == (-2.0, 2.0)
    assert ClipGradByValue(Schedule((0, 4.0), (10, 2.0))).threshold.bounds(5) == (-3.0, 3.0)
    with pytest.raises(TypeError, match=r"Bounds\(max, min\) clips by value"):
        Bounds(1.0, -1.0).value(0)


@pytest.mark.parametrize(
    ("step", "value"), [(0, 10.0), (5, 10.0), (10, 10.0), (11, 9.0), (15, 5.0), (19, 1.0), (20, 1.0), (999, 1.0)]
)
def test_a_schedule_stays_then_follows_a_line_then_stays(step, value):
    assert Schedule((10, 10.0), (19, 1.0)).value(step) == pytest.approx(value)


def test_a_schedule_follows_each_of_its_lines():
    schedule = Schedule((0, 1.0), (10, 2.0), (20, 6.0))
    assert [schedule.value(step) for step in (5, 10, 15)] == [1.5, 2.0, 4.0]


def test_a_schedule_may_be_a_function_whose_values_are_checked():
    schedule = Schedule(lambda step: 3.0 - step)
    assert schedule.value(1) == 2.0
    with pytest.raises(ValueError, match="the scheduled threshold at step 3 must be above 0"):
        schedule.value(3)


@pytest.mark.parametrize(
    ("points", "error", "remedy"),
    [
        ((), TypeError, "a Schedule takes points"),
        ((lambda step: 1.0, (0, 1.0)), TypeError, "or one function of the step"),
        (((5, 1.0), (5, 2.0)), ValueError, "start at 0 or later and rise"),
        (((5, 1.0), (4, 2.0)), ValueError, "start at 0 or later and rise"),
        (((-1, 1.0),), ValueError, "start at 0 or later and rise"),
        (((0, 1.0), (5, None)), ValueError, "cannot rise to infinity along a line"),
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused(points, error, remedy):
    with pytest.raises(error, match=remedy):
        Schedule(*points)


@pytest.mark.parametrize("order", [0, -1, -math.inf, math.nan, 0.09, 5e-324])
@pytest.mark.parametrize("make", [norm_of_order, Lp, lambda p: ClipGradByGlobalNorm(1.0, p)])
def test_an_order_outside_a_tenth_to_infinity_is_refused(make, order):
    with pytest.raises(ValueError, match=r"the order of a norm lies in \[0.1, inf\].*write 2.0, 1.0 or float\('inf'\)"):
        make(order)


@pytest.mark.parametrize("order", [True, "2", None, [2]])
def test_an_order_that_is_no_number_is_refused(order):
    with pytest.raises(TypeError, match=r"the order of a norm is a number in \[0.1, inf\], got .*write 2.0"):
        norm_of_order(order)
