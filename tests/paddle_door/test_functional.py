"""The drop-ins for `paddle.nn.utils` and the explicit form, which take whatever holds parameters."""

from __future__ import annotations

import math

import numpy as np
import paddle
import pytest

import gradclip
from gradclip import GradclipWarning, NonFiniteGradient
from gradclip.paddle import Clipper, clip_grad_norm_, clip_grad_value_
from paddle_eager import ENGINES, embedding, numbers, parameter, without_gradient

CLOSE = 3 * 2.0**-24
SOURCES = {
    "a list": lambda net: net.parameters(),
    "a generator": lambda net: (p for p in net.parameters()),
    "a layer": lambda net: net,
    "a model": paddle.Model,
    "an optimizer": lambda net: paddle.optimizer.SGD(1.0, parameters=net.parameters()),
    "groups": lambda net: paddle.optimizer.SGD(1.0, parameters=[{"params": [p]} for p in net.parameters()]),
    "named parameters": lambda net: net.named_parameters(),
    "a dict": lambda net: dict(net.named_parameters()),
}


def net_with_gradients():
    """A weight [2, 1] with the gradient [3, 4] and a bias with [12]."""
    net = paddle.nn.Linear(2, 1)
    net.weight.grad, net.bias.grad = paddle.to_tensor([[3.0], [4.0]]), paddle.to_tensor([12.0])
    return net


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_whatever_holds_parameters_is_clipped(source):
    net = net_with_gradients()
    norm = clip_grad_norm_(source(net), 6.5)
    assert (float(norm), norm.shape, norm.dtype) == (13.0, [], paddle.float32)
    assert numbers(net.weight.grad).ravel().tolist() == [1.5, 2.0]
    assert clip_grad_value_(source(net), 1.75) is None
    assert numbers(net.weight.grad).ravel().tolist() == [1.5, 1.75]


def test_gradients_in_the_place_of_parameters_are_known_for_what_they_are():
    with pytest.warns(GradclipWarning, match="hand over the parameters, not their gradients"):
        clip_grad_norm_([p.grad for p in net_with_gradients().parameters()], 1.0)


def test_pairs_and_parameters_do_not_mix():
    (name, first), (_, second) = net_with_gradients().named_parameters()
    with pytest.raises(TypeError, match=r"the first of the parameters is a pair .* and that at 1 is none"):
        clip_grad_norm_([(name, first), second], 1.0)


def test_one_tensor_is_a_source():
    p = parameter(3.0, 4.0)
    assert float(clip_grad_norm_(p, 1.0)) == 5.0


@pytest.mark.parametrize(
    ("order", "norm"), [(1.0, 7.0), (2, 5.0), (3.0, 91 ** (1 / 3)), (0.5, 13.928203), (math.inf, 4.0), ("inf", 4.0)]
)
def test_norms_of_every_order_are_right(order, norm):
    assert float(clip_grad_norm_([parameter(3.0), parameter(4.0)], None, order)) == pytest.approx(norm, rel=1e-6)


def test_what_paddle_itself_gets_right_is_the_same():
    """Its coefficient has 1e-6 more in the divisor: relative to a norm of 19.6, 5e-8; and sums in float32 differ."""
    ours, theirs = parameter(*range(1, 11)), parameter(*range(1, 11))
    found, wanted = clip_grad_norm_([ours], 1.0), paddle.nn.utils.clip_grad_norm_([theirs], 1.0)
    assert float(found) == pytest.approx(float(wanted), rel=1e-6)
    np.testing.assert_allclose(numbers(ours.grad), numbers(theirs.grad), rtol=1e-6)
    clip_grad_value_([ours], 0.3)
    paddle.nn.utils.clip_grad_value_([theirs], 0.3)
    np.testing.assert_allclose(numbers(ours.grad), numbers(theirs.grad), rtol=1e-6)


def test_large_finite_gradients_are_clipped():
    p = parameter(3e25, 4e25)
    assert float(clip_grad_norm_([p], 1.0)) == pytest.approx(5e25, rel=1e-6)
    assert numbers(p.grad) == pytest.approx([0.6, 0.8], rel=CLOSE)


def test_a_norm_beyond_float32_is_returned_in_float64():
    norm = clip_grad_norm_([parameter(3e38, 3e38)], 1.0)
    assert (norm.dtype, float(norm)) == (paddle.float64, pytest.approx(2**0.5 * 3e38, rel=1e-6))
    assert clip_grad_norm_([parameter(3.0, dtype="float64")], 1.0).dtype == paddle.float64


def test_sparse_rows_are_measured_and_clipped():
    table = embedding(1, 1, 3)
    assert float(clip_grad_norm_([table], 1.0)) == pytest.approx(10**0.5, rel=1e-6)
    assert numbers(table.grad)[[1, 3], 0] == pytest.approx([2 * 10**-0.5, 10**-0.5], rel=CLOSE)
    clip_grad_value_([table], 0.5)
    assert numbers(table.grad)[1].tolist() == [0.5, 0.5]


def test_many_elements_have_an_exact_norm():
    """Of 5e7 ones the norm is sqrt(5e7); summed in float32, one after another, they stop at 2^24."""
    p = parameter(grad=paddle.ones([50_000_000]))
    assert float(clip_grad_norm_([p], None)) == pytest.approx(5e7**0.5, rel=1e-6)


@pytest.mark.parametrize("limit", [-1.0, 0.0, float("nan"), "1", True])
def test_limits_that_make_no_sense_are_refused_and_nothing_is_written(limit):
    p = parameter(3.0, 4.0)
    with pytest.raises((ValueError, TypeError), match="max_norm"):
        clip_grad_norm_([p], limit)
    with pytest.raises((ValueError, TypeError), match="clip_value"):
        clip_grad_value_([p], limit)
    assert numbers(p.grad).tolist() == [3.0, 4.0]


def test_a_non_finite_norm_is_returned_without_a_word_or_raised_by_name():
    p, q = parameter(float("nan"), 1.0), parameter(3.0)
    assert math.isnan(float(clip_grad_norm_([p, q], 1.0)))
    with pytest.raises(NonFiniteGradient, match=p.name):
        clip_grad_norm_([p, q], 1.0, error_if_nonfinite=True)
    assert numbers(q.grad) == 3.0


def test_nothing_to_clip_is_said():
    with pytest.warns(GradclipWarning, match="no parameter has a gradient"):
        assert float(clip_grad_norm_([without_gradient()], 1.0)) == 0.0
    with pytest.warns(GradclipWarning, match="exhausted iterator"):
        clip_grad_norm_(iter([]), 1.0)
    with pytest.warns(GradclipWarning, match="no parameters at all"):
        clip_grad_value_([], 1.0)


def test_what_holds_no_parameters_is_refused():
    for source in (1.0, "weights"):
        with pytest.raises(TypeError, match="expected parameters"):
            clip_grad_norm_(source, 1.0)
    with pytest.raises(TypeError, match=r"parameters\[1\] is a float"):
        clip_grad_norm_([parameter(1.0), 2.0], 1.0)


def test_in_a_static_graph_the_drop_ins_say_where_to_go():
    p = parameter(1.0)
    paddle.enable_static()
    try:
        for call in (clip_grad_norm_, clip_grad_value_):
            with pytest.raises(RuntimeError, match="give a clip to the optimizer"):
                call([p], 1.0)
    finally:
        paddle.disable_static()


@pytest.mark.parametrize("engine", ENGINES)
def test_the_explicit_form_writes_where_the_optimizer_looks(engine):
    p, q = parameter(3.0), parameter(4.0, need_clip=False)
    clipper = Clipper(gradclip.ClipGradByGlobalNorm(1.0), engine=engine)
    result = clipper.clip_([p, q])
    assert (result.norm_before, result.engine) == (3.0, engine)
    assert [numbers(p.grad).tolist(), numbers(q.grad).tolist()] == [[1.0], [4.0]]


@pytest.mark.parametrize("engine", ENGINES)
def test_mixed_precision_keeps_the_gradient_in_float32_beside_the_parameter(engine):
    p = parameter(0.0, 0.0, dtype="float16")
    p.grad = None
    p.main_grad = paddle.to_tensor([3.0, 4.0])
    Clipper(gradclip.ClipGradByGlobalNorm(1.0), engine=engine).clip_([p])
    assert numbers(p.main_grad) == pytest.approx([0.6, 0.8], rel=CLOSE)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_skipped_step_leaves_the_optimizer_nothing_to_step_on(engine):
    p, q = parameter(float("inf")), parameter(3.0)
    result = Clipper(gradclip.ClipGradByNorm(1.0), on_nonfinite="skip", engine=engine).clip_([p, q])
    assert result.skipped
    assert (p.grad, q.grad) == (None, None)


def test_names_of_a_dict_are_those_in_errors_and_others_are_the_parameters_own():
    p = parameter(float("nan"))
    clipper = Clipper(gradclip.ClipGradByNorm(1.0), on_nonfinite="raise")
    with pytest.raises(NonFiniteGradient, match=r"'readout\.weight'"):
        clipper.clip_({"readout.weight": p})
    with pytest.raises(NonFiniteGradient, match=p.name):
        clipper.clip_([p])


def test_groups_of_an_optimizer_are_groups_of_a_rule():
    a, b, c = parameter(3.0), parameter(4.0), parameter(12.0)
    optimizer = paddle.optimizer.SGD(1.0, parameters=[{"params": [a, b]}, {"params": [c]}])
    Clipper(gradclip.Rule(scope=gradclip.Group())).clip_(optimizer)
    assert [p.grad.item() for p in (a, b, c)] == pytest.approx([0.6, 0.8, 1.0], rel=CLOSE)
