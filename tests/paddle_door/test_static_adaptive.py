"""Every rule that adapts, run after run of a static graph, against the reference engine step after step."""

import warnings

import numpy as np
import paddle
import pytest

from gradclip import Group
from gradclip.clipper import Clipper
from gradclip.errors import GradclipWarning
from gradclip.paddle.static import clip_in_graph
from gradclip.rules.response import SkipStep
from gradclip.rules.rule import Carry, rules_in
from gradclip.rules.threshold import SecondMoment
from gradclip.testing import ordinary_gradients
from gradclip.testing.bench import differences, weights_like
from gradclip.testing.check import adaptive_rules
from gradclip.testing.laws import STREAM
from paddle_bench import ON_A_DEVICE
from paddle_graph import MODES, graph

UNKNOWN = (SkipStep, Group, SecondMoment)
"""A graph can leave out no step, and knows no parameter groups and no second moments; it carries nothing over."""

RULES = [
    rule
    for rule in adaptive_rules()
    if not isinstance(rule, Carry)
    and not any(
        isinstance(part, UNKNOWN) for one in rules_in(rule) for part in (one.response, one.scope, one.threshold)
    )
]
SHAPES = slice(1, 4)
"""The tensors [3], [4, 5] and [7, 129]: static graphs want no empty ones."""


def weight(name, values):
    start = paddle.nn.initializer.Assign(values.astype("float32"))
    return paddle.create_parameter(list(values.shape), "float32", attr=paddle.ParamAttr(name, initializer=start))


@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize("mode", MODES)
def test_a_graph_learns_as_the_reference_does(mode, rule):
    arrays = [array.astype("float32") for array in ordinary_gradients()[SHAPES]]
    names = [f"t{i}" for i in range(len(arrays))]
    other = Clipper(rule)
    with graph(mode) as made:
        fed = [paddle.static.data(f"g{i}", list(array.shape), "float32") for i, array in enumerate(arrays)]
        weights = [weight(*one) for one in zip(names, weights_like(arrays), strict=True)]
        after, program = clip_in_graph(Clipper(rule), list(zip(weights, fed, strict=True)), lambda parameter: True)
        for step, factor in enumerate(STREAM):
            gradients = [array * np.float32(factor) for array in arrays]
            feed = {f"g{i}": gradient for i, gradient in enumerate(gradients)}
            found = made.run(feed, [gradient for _, gradient in after])
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", GradclipWarning)
                expected = ON_A_DEVICE.oracle.clip(other, gradients)
            for name, out, truth in zip(names, found, expected.after, strict=True):
                wrong = differences(np.asarray(out, np.float64), truth, 2 * ON_A_DEVICE.tolerance, 2.0**-149)
                assert not wrong, f"step {step}, {name}: {wrong}"
            assert bool(program.last.nonfinite) == bool(expected.result.nonfinite)
