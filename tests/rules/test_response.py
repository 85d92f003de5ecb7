"""Responses and norms by their formulas, worked out by hand, on plain floats."""

import math

import pytest

from gradclip import L1, L2, RMS, Linf, Lp, Normalize, Raise, Rescale, Response, SkipStep, Smooth, Zero
from gradclip.rules.arrays import SCALARS
from gradclip.rules.response import RAISE, SCALE, SKIP, ZERO

BY_HAND = [
    (Rescale(), [(0.0, 1.0), (0.5, 1.0), (1.0, 1.0), (2.0, 0.5), (1e300, 1e-300), (math.inf, 0.0)]),
    (Smooth(), [(0.0, 1.0), (1.0, 0.5), (3.0, 0.25), (math.inf, 0.0)]),
    (Smooth("sqrt"), [(0.0, 1.0), (0.75, 0.8), (1.0, 0.5**0.5), (math.inf, 0.0)]),
    (Smooth("tanh"), [(0.0, 1.0), (1.0, 0.7615941559557649), (2.0, 0.48201379003790845), (1e9, 1e-9)]),
    (Normalize(), [(0.0, 1.0), (0.5, 2.0), (1.0, 1.0), (4.0, 0.25)]),
    (Normalize(1.0), [(0.0, 1.0), (1.0, 0.5), (3.0, 0.25)]),
    (Zero(), [(0.0, 1.0), (1.0, 1.0), (1.0000001, 0.0), (math.inf, 0.0)]),
    (SkipStep(), [(1.0, 1.0), (1.5, 0.0)]),
    (Raise(), [(1.0, 1.0), (1.5, 0.0)]),
]


@pytest.mark.parametrize(("response", "ratio", "phi"), [(r, x, y) for r, pairs in BY_HAND for x, y in pairs])
def test_a_response_is_its_formula(response, ratio, phi):
    assert response.coefficient(ratio, SCALARS) == pytest.approx(phi, rel=1e-12)


@pytest.mark.parametrize("ratio", [0.0, 1e-300, 0.3, 1.0])
def test_below_the_threshold_hard_responses_are_exactly_1(ratio):
    for response in (Rescale(), Zero(), SkipStep(), Raise()):
        assert response.coefficient(ratio, SCALARS) == 1.0


def test_each_response_has_its_action():
    actions = [one.action for one in (Rescale(), Smooth(), Normalize(), Zero(), SkipStep(), Raise())]
    assert actions == [SCALE, SCALE, SCALE, ZERO, SKIP, RAISE]


@pytest.mark.parametrize(
    ("make", "remedy"),
    [
        (lambda: Smooth("cubic"), "'reciprocal', 'sqrt', 'tanh', got 'cubic'"),
        (lambda: Normalize(-1.0), r"of Normalize is a number from 0 and finite, got -1.0: write Normalize\(1e-6\)"),
        (lambda: Normalize(math.inf), "from 0 and finite, got inf"),
        (lambda: Normalize(math.nan), "from 0 and finite, got nan"),
        (lambda: Normalize(True), "is a number from 0 and finite, got True"),
    ],
)
def test_a_response_refuses_what_makes_no_sense(make, remedy):
    with pytest.raises((TypeError, ValueError), match=remedy):
        make()


def test_the_base_response_says_what_to_use():
    with pytest.raises(TypeError, match="use one of the responses"):
        Response().coefficient(1.0, SCALARS)


@pytest.mark.parametrize(
    ("norm", "total", "size", "value"),
    [(L1(), 7.0, 2, 7.0), (L2(), 25.0, 2, 5.0), (Linf(), 4.0, 2, 4.0), (Lp(3.0), 27.0, 2, 3.0), (RMS(), 100.0, 4, 5.0)],
)
def test_a_norm_is_made_from_its_total(norm, total, size, value):
    assert norm.finish(total, size, SCALARS) == pytest.approx(value, rel=1e-15)


@pytest.mark.parametrize("norm", [L1(), L2(), Linf(), Lp(3.0), Lp(0.5), RMS()], ids=str)
def test_scaling_the_elements_scales_the_norm(norm):
    total = norm.scaled(16.0, 0.25, SCALARS)
    assert norm.finish(total, 4, SCALARS) == pytest.approx(0.25 * norm.finish(16.0, 4, SCALARS))


def test_maxima_combine_by_maximum_and_powers_by_sum():
    assert [norm.combine for norm in (L1(), L2(), Linf(), Lp(3.0), RMS())] == ["sum", "sum", "max", "sum", "sum"]
