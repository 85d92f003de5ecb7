"""The documented dynamic programs, in which only the import of the clip changes, and the net that explodes."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

import gradclip.paddle
from paddle_eager import numbers

CLIPS = {
    "value": lambda nn, **options: nn.ClipGradByValue(min=-1, max=1, **options),
    "norm": lambda nn, **options: nn.ClipGradByNorm(clip_norm=1.0, **options),
    "global norm": lambda nn, **options: nn.ClipGradByGlobalNorm(clip_norm=1.0, **options),
}
WHAT = {"all": (True, True), "only the weight": (True, False), "only the bias": (False, True)}


def linear(weight=True, bias=True):
    """The layer of the guide; its parameters are the same in each call."""
    paddle.seed(7)
    return paddle.nn.Linear(
        10, 10, weight_attr=paddle.ParamAttr(need_clip=weight), bias_attr=paddle.ParamAttr(need_clip=bias)
    )


def trained(layer, clip):
    """One step of the guide's program: how far each parameter moved."""
    paddle.seed(3)
    before = [numbers(p) for p in layer.parameters()]
    optimizer = paddle.optimizer.SGD(learning_rate=0.1, parameters=layer.parameters(), grad_clip=clip)
    loss = paddle.mean(layer(paddle.uniform([10, 10], min=-100.0, max=100.0, dtype="float32")))
    loss.backward()
    optimizer.step()
    return [old - numbers(p) for old, p in zip(before, layer.parameters(), strict=True)]


# A parameter below 1 in float32, before and after: the difference of two has the rounding of both.
CLOSE = {"rtol": 1e-6, "atol": 2 * 2.0**-24}


@pytest.mark.parametrize("what", WHAT.values(), ids=WHAT)
@pytest.mark.parametrize("kind", CLIPS.values(), ids=CLIPS)
def test_the_program_ends_as_with_the_clips_of_paddle(kind, what):
    ours = trained(linear(*what), kind(gradclip.paddle))
    theirs = trained(linear(*what), kind(paddle.nn))
    for found, wanted in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(found, wanted, **CLOSE)


@pytest.mark.parametrize("what", WHAT.values(), ids=WHAT)
@pytest.mark.parametrize("kind", CLIPS.values(), ids=CLIPS)
def test_the_older_form_a_function_of_the_parameter_says_the_same(kind, what):
    layer = linear()
    chosen = dict(zip([p.name for p in layer.parameters()], what, strict=True))
    by_function = trained(layer, kind(gradclip.paddle, need_clip=lambda p: chosen[p.name]))
    by_flag = trained(linear(*what), kind(gradclip.paddle))
    for found, wanted in zip(by_function, by_flag, strict=True):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("kind", CLIPS.values(), ids=CLIPS)
def test_the_program_moves_by_the_clipped_gradient(kind):
    """The loss is the mean of 100 outputs, so the gradient of each bias is 0.1, and of them all sqrt(0.1) = 0.316."""
    clip = kind(gradclip.paddle, need_clip=lambda p: len(p.shape) == 2)
    weight, bias = trained(linear(), clip)
    np.testing.assert_allclose(bias, 0.01, **CLOSE)
    assert clip.last.clipped
    moved = np.abs(weight).max() if "Value" in type(clip).__name__ else np.linalg.norm(weight)
    assert moved == pytest.approx(0.1, rel=1e-5)


def exploding_net(weights_too):
    """Three linear layers without activation, drawn far too large."""
    random = np.random.default_rng(0)
    attr = paddle.ParamAttr(need_clip=weights_too)
    net = paddle.nn.Sequential(*(paddle.nn.Linear(a, b, weight_attr=attr) for a, b in ((1, 32), (32, 32), (32, 1))))
    for parameter in net.parameters():
        parameter.set_value(random.standard_normal(parameter.shape).astype("float32"))
    net[0].weight.set_value(net[0].weight + 2.0)
    return net, random


def losses(weights_too, steps=100):
    """Learning y = x + 3 in batches of 16."""
    net, random = exploding_net(weights_too)
    clip = gradclip.paddle.ClipGradByNorm(1.0, on_nonfinite="zero")
    optimizer = paddle.optimizer.SGD(0.01, parameters=net.parameters(), grad_clip=clip)
    found = []
    for _ in range(steps):
        x = paddle.to_tensor(random.standard_normal((16, 1)).astype("float32"))
        loss = paddle.nn.functional.mse_loss(net(x), x + 3)
        found.append(float(loss))
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
    return found


def test_the_exploding_net_breaks_where_the_weights_are_left_alone_and_trains_where_they_are_clipped():
    assert not np.isfinite(losses(weights_too=False, steps=6)).all()
    assert losses(weights_too=True)[-1] < 2.5
