"""Scope `Element` with a threshold that adapts: each tensor has bounds of its own, from its largest elements."""

from types import SimpleNamespace

import numpy as np
import paddle
import pytest

from gradclip import EMA, Element, History, Linf, Normalize, Ratio, Rule, StableSPAM, min_of
from gradclip.clipper import Clipper
from gradclip.paddle.static import clip_in_graph
from gradclip.step.gradients import Gradients
from gradclip.testing.bench import REFERENCE
from jax_bench import float64_scalars
from paddle_graph import MODES, graph

in_float64 = pytest.fixture(autouse=True)(float64_scalars)
RULE = Rule(Element(), Linf(), History(EMA(0.5), Ratio(1.0)))
"""T is the first peak, then halfway from T to each next peak; elements are clipped to [-T, T]."""

STEPS = [
    ([[1.0, -4.0], [2.0]], [[1.0, -4.0], [2.0]]),  # nothing is known: T becomes 4 and 2
    ([[8.0, -9.0], [1.0]], [[4.0, -4.0], [1.0]]),  # T becomes 4 + (9 - 4) / 2 = 6.5 and 2 + (1 - 2) / 2 = 1.5
    ([[np.nan, 8.0], [0.0]], [[np.nan, 6.5], [0.0]]),  # neither is learnt
    ([[-np.inf, 7.0], [-3.0]], [[-6.5, 6.5], [-1.5]]),  # an infinity becomes its bound; only 3 is learnt: T is 2.25
    ([[5.0, -7.0], [4.0]], [[5.0, -6.5], [2.25]]),
]


def test_each_tensor_has_its_own_bounds(bench):
    """All numbers here are exact in float32."""
    clipper = Clipper(RULE)
    for before, after in STEPS:
        out = bench.clip(clipper, [np.array(values) for values in before])
        for found, expected in zip(out.after, after, strict=True):
            np.testing.assert_array_equal(found, expected)


def test_the_result_tells_the_bound_of_each_side(bench):
    clipper = Clipper(RULE)
    for values in ([1.0, -4.0], [8.0, -2.0]):
        out = bench.clip(clipper, [np.array(values)])
    above, below = out.result.segments
    assert (above.name, above.norm_before, above.threshold, above.coefficient) == ("t0 above 0", 8.0, 4.0, 0.5)
    assert (below.norm_before, below.threshold, below.action) == (2.0, 4.0, "pass")


def test_no_number_is_read_on_a_device(bench):
    clipper = Clipper(RULE)
    for before, _ in STEPS[:2]:
        tensors = bench.tensors([np.array(values) for values in before])
        with bench.unread():
            clipper.clip_gradients(Gradients(tensors, str), bench.engine)


def test_other_responses_bend_to_the_bound_of_their_tensor(bench):
    """Normalize: every element but 0 becomes the bound with its sign. T is 4 and 0.5."""
    clipper = Clipper(Rule(Element(), Linf(), History(EMA(0.5), Ratio(1.0)), Normalize()))
    bench.clip(clipper, [np.array([4.0]), np.array([0.5])])
    out = bench.clip(clipper, [np.array([1.0, -9.0, 0.0]), np.array([3.0, -0.25])])
    np.testing.assert_array_equal(out.after[0], [4.0, -4.0, 0.0])
    np.testing.assert_array_equal(out.after[1], [0.5, -0.5])


def test_a_number_beside_the_history_is_one_bound_for_all(bench):
    clipper = Clipper(Rule(Element(), Linf(), min_of(3.0, History(EMA(0.5), Ratio(1.0)))))
    for values in ([4.0], [2.0]), ([9.0], [9.0]):
        out = bench.clip(clipper, [np.array(each) for each in values])
    assert [array.tolist() for array in out.after] == [[3.0], [2.0]]


def test_what_lies_inside_its_bounds_is_not_written(bench):
    clipper = Clipper(RULE)
    bench.clip(clipper, [np.array([4.0]), np.array([4.0])])
    assert bench.clip(clipper, [np.array([4.0]), np.array([5.0])]).wrote == [False, True]


def test_a_tensor_without_a_gradient_keeps_its_bounds(bench):
    clipper = Clipper(RULE)
    bench.clip(clipper, [np.array([4.0]), np.array([1.0])])
    bench.clip(clipper, [np.array([1.0])], order=[1])
    out = bench.clip(clipper, [np.array([9.0]), np.array([9.0])], order=[1, 0])
    assert [array.tolist() for array in out.after] == [[1.0], [4.0]]


def test_bounds_have_the_unit_of_the_gradient_under_a_loss_scale():
    clipper = Clipper(RULE)
    for scale, value, expected in ((1.0, 4.0, 4.0), (1024.0, 8.0 * 1024.0, 4.0 * 1024.0)):
        gradient = np.array([value])
        clipper.clip_gradients(Gradients([gradient], str, divisor=scale), REFERENCE.engine)
        assert gradient.tolist() == [expected]


@pytest.mark.parametrize("mode", MODES)
def test_each_tensor_of_a_static_graph_has_its_own_bounds(mode):
    with graph(mode) as made:
        values = [paddle.static.data(f"g{i}", [2 - i], "float64") for i in range(2)]
        pairs = [(SimpleNamespace(name=f"t{i}"), value) for i, value in enumerate(values)]
        clipped, _ = clip_in_graph(Clipper(RULE), pairs, lambda parameter: True)
        for before, after in STEPS:
            feed = {f"g{i}": np.array(each) for i, each in enumerate(before)}
            found = made.run(feed, [gradient for _, gradient in clipped])
            for one, expected in zip(found, after, strict=True):
                np.testing.assert_array_equal(one, expected)


def test_both_stages_of_stable_spam_run(bench):
    """The first peak is T, so [1, -5] becomes [1, -1]; then the norm becomes mu / nu, which is 1 for equal norms.

    Stage 2 learns sqrt(2) twice, so mu = sqrt(2) = nu, to the rounding of float32.
    """
    clipper = Clipper(StableSPAM())
    bench.clip(clipper, [np.array([1.0, -1.0])])
    out = bench.clip(clipper, [np.array([1.0, -5.0])])
    np.testing.assert_allclose(out.after[0], [0.5**0.5, -(0.5**0.5)], rtol=1e-6)
