"""Under `FLAGS_check_nan_inf`, with which Paddle ends what makes a NaN or an infinity, rules work as without."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import paddle
import pytest

from effort import LONG
from gradclip import L2, Constant, Element, Global, Linf, Raise, Rescale, Row, Rule, SkipStep, Smooth, Tensor
from gradclip.paddle import Clip, Clipper
from gradclip.rules.rule import Carry, rules_in
from gradclip.testing import standard_rules
from gradclip.testing.check import adaptive_rules
from paddle_graph import MODES, graph


def stops(rule: Rule) -> bool:
    return isinstance(rule, Carry) or any(isinstance(one.response, SkipStep | Raise) for one in rules_in(rule))


def reads(rule: Rule) -> bool:
    """Whether it reads what is not given here."""
    return bool(Clipper(rule).reads_given or Clipper(rule).reads_moments)


RULES = [rule for rule in standard_rules() if not stops(rule) and not reads(rule)]
MEASURE_ONLY = [Rule(scope, L2(), Constant(math.inf)) for scope in (Global(), Tensor(), Row())]
MEASURE_ONLY += [Rule(Element(), Linf(), Constant(math.inf), response) for response in (Rescale(), Smooth())]
FEW = [rule for place, rule in enumerate(RULES) if LONG or place % 6 == 0 or rule in adaptive_rules()]
FEW += MEASURE_ONLY


@pytest.fixture(autouse=True)
def checked():
    paddle.set_flags({"FLAGS_check_nan_inf": 1})
    yield
    paddle.set_flags({"FLAGS_check_nan_inf": 0})


@pytest.mark.parametrize("rule", FEW, ids=repr)
@pytest.mark.parametrize("mode", MODES)
def test_in_a_static_graph(mode, rule):
    """A rule without a threshold yet says infinity, though the program holds the largest number for it."""
    clip = Clip(rule)
    with graph(mode) as made:
        weight = paddle.create_parameter([3, 2], "float32")
        fed = paddle.static.data("fed", [3, 2], "float32")
        loss = (weight * fed).sum() if mode == "pir" else paddle.mean(weight * fed) * 6.0
        paddle.optimizer.SGD(0.1, grad_clip=clip).minimize(loss)
        for _ in range(3):
            made.run({"fed": np.full((3, 2), 2.0, "float32")}, [])
        thresholds = [segment.threshold for segment in clip.last.segments]
    assert all(threshold < 1e300 or math.isinf(threshold) for threshold in thresholds)


@pytest.mark.parametrize("rule", FEW[::3] + MEASURE_ONLY, ids=repr)
def test_in_dynamic_mode_by_the_operations_of_paddle(rule):
    """On a thread: under the flag Paddle writes down the Python calls at each operation, of a test more than fifty."""

    def steps():
        weight, clipper = paddle.create_parameter([3, 2], "float32"), Clipper(rule, engine="paddle")
        for _ in range(3):
            weight.grad = paddle.full([3, 2], 2.0)
            assert clipper.clip_([weight]).nonfinite == 0

    with ThreadPoolExecutor(1) as thread:
        thread.submit(steps).result()


def test_the_flag_is_on():
    with pytest.raises(RuntimeError, match=r"(?i)nan|inf"):
        paddle.log(paddle.zeros([1]))
