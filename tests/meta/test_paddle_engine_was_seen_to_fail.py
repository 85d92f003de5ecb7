"""Each of these bugs, planted in the engine of Paddle's operators, turns a law red that is green without it."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest

from gradclip import ClipGradByGlobalNorm, Constant, Row, Rule, Tensor, Zero
from gradclip.engines import paddle as paddle_engine
from gradclip.engines.paddle_arrays import PaddleFunctions, Wide
from gradclip.rules.norm import Linf
from gradclip.testing import laws, ordinary_gradients
from paddle_bench import ON_A_DEVICE

HUGE = [np.full((2, 2), 1e25), np.array([3.0])]
BROKEN = [np.array([np.inf, 1.0]), np.array([3.0, 4.0])]
ONE = ClipGradByGlobalNorm(1.0)


def as_it_is(value, dtype):
    return value


def without_zeros(wide, factor, zeroes):
    return wide * factor


def largest_only(a, index, segments, how):
    return Wide(paddle_engine.F.max(a.value).reshape([1]).expand([segments]))


def read_a_number(condition, then, other, where=PaddleFunctions.where):
    bool(condition.value.any())
    return where(condition, then, other)


PLANTS = [
    ("sums in the type of the gradient", paddle_engine, "_wide", as_it_is, laws.every_norm_is_right, ONE, HUGE),
    ("0 * inf", paddle_engine, "_scaled", without_zeros, laws.zeroing_leaves_only_finite_numbers,
     Rule(response=Zero()), BROKEN),
    ("segments are mixed up", PaddleFunctions, "combine", staticmethod(largest_only), laws.it_agrees_with_the_reference,
     Rule(Row(), Linf(), Constant(0.9)) >> Rule(Tensor(), Linf(), Constant(0.5)), None),
    ("units along the wrong axis", paddle_engine, "unit_axis", lambda shape: 0, laws.it_agrees_with_the_reference,
     Rule(Row(), Linf(), Constant(0.5)), None),
    ("a number is read on the host", PaddleFunctions, "where", staticmethod(read_a_number),
     laws.no_number_is_read_on_the_host, ONE, None),
]  # fmt: skip


@pytest.mark.parametrize(
    ("place", "name", "bug", "law", "rule", "arrays"),
    [plant[1:] for plant in PLANTS],
    ids=[plant[0] for plant in PLANTS],
)
def test_the_law_is_green_and_with_the_bug_red(place, name, bug, law, rule, arrays):
    gradients = ordinary_gradients() if arrays is None else arrays
    law(ON_A_DEVICE, rule, gradients)
    with mock.patch.object(place, name, bug), pytest.raises(AssertionError):
        law(ON_A_DEVICE, rule, gradients)
