"""What Paddle's own tests ask of its clipping, asked of `gradclip.paddle`.

Source: PaddlePaddle/Paddle, test/legacy_test/test_gradient_clip.py (classes TestGradientClipBy... and
TestPirGradientClipBy... for static graphs, TestDygraphGradientClip..., TestPureFP16ClipGradByGlobalNorm),
test_clip_grad_norm_.py (TestClipGradNorm) and test_clip_grad_value_.py (TestClipGradValue). Their truth is NumPy's, and
so is this one, in float64. Tests called `test_differs_...` are listed in docs/peers.md.
"""

from __future__ import annotations

import math

import numpy as np
import paddle
import pytest

import gradclip.paddle
from gradclip import GradclipWarning
from gradclip.paddle import clip_grad_norm_, clip_grad_value_
from paddle_eager import ENGINES, embedding, numbers, pairs_of, parameter
from paddle_graph import MODES, graph, held

LIMIT = 0.2
# The norm is right to 1e-6; the coefficient and each product round once in float32.
CLOSE = 1e-6 + 2 * 2.0**-24
CLIPS = {"global norm": "ClipGradByGlobalNorm", "norm": "ClipGradByNorm", "value": "ClipGradByValue"}


def norm(*arrays):
    return float(np.sqrt(sum((np.asarray(a, np.float64) ** 2).sum() for a in arrays)))


def expected(kind, gradients, limit):
    """What the clip of this kind makes of the gradients, in float64."""
    wide = [np.asarray(g, np.float64) for g in gradients]
    if kind == "value":
        return [np.clip(g, -limit, limit) for g in wide]
    norms = [norm(g) for g in wide] if kind == "norm" else [norm(*wide)] * len(wide)
    return [g * (limit / max(limit, n)) for g, n in zip(wide, norms, strict=True)]


def assert_close(found, wanted):
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(np.asarray(one, np.float64), other, rtol=CLOSE, atol=1e-12)


def classifier(dtype):
    """The pairs of two layers in the current program; their gradients are some thousand times the limit."""
    random = np.random.default_rng(7)
    hidden = paddle.static.data("fed", [3, 12], dtype)
    parameters = []
    for rows, columns in ((12, 6), (6, 4)):
        for i, shape in enumerate(([rows, columns], [columns])):
            start = paddle.nn.initializer.Assign(random.standard_normal(shape).astype(dtype))
            attr = paddle.ParamAttr(f"layer{rows}_{i}", initializer=start)
            parameters.append(paddle.create_parameter(shape, dtype, attr=attr))
        hidden = paddle.nn.functional.relu(paddle.nn.functional.linear(hidden, *parameters[-2:]))
    loss = paddle.mean(hidden * hidden)
    if paddle.framework.in_pir_mode():
        return list(zip(parameters, paddle.autograd.ir_backward.grad(loss, parameters), strict=True))
    return sorted(paddle.static.append_backward(loss), key=lambda pair: pair[0].name)


def gradients_of(mode, dtype, clip=None):
    """The gradients of the program, after the clip if there is one."""
    fed = np.random.default_rng(11).standard_normal((3, 12)).astype(dtype) * 100
    with graph(mode) as made:
        pairs = classifier(dtype)
        return made.run({"fed": fed}, [g for _, g in (clip(pairs) if clip else pairs)])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", CLIPS)
@pytest.mark.parametrize("mode", MODES)
def test_in_a_static_graph_the_gradients_are_those_of_numpy(mode, kind, dtype):
    before = gradients_of(mode, dtype)
    assert norm(*before) > 1000 * LIMIT
    after = gradients_of(mode, dtype, getattr(gradclip.paddle, CLIPS[kind])(LIMIT))
    assert_close(after, expected(kind, before, LIMIT))


@pytest.mark.parametrize("kind", CLIPS)
@pytest.mark.parametrize("mode", MODES)
def test_in_a_static_graph_pairs_without_a_gradient_go_and_excluded_ones_stay(mode, kind):
    clip = getattr(gradclip.paddle, CLIPS[kind])(LIMIT)
    with graph(mode):
        x, y = (paddle.create_parameter([2, 3], "float32", attr=paddle.ParamAttr(n, need_clip=False)) for n in "xy")
        with pytest.warns(GradclipWarning, match="nothing is clipped"):
            ((p, g),) = clip([(x, None), (x, y)])
        assert (p.name, g.name) == ("x", "y")
        assert g is y


@pytest.mark.parametrize("mode", MODES)
def test_the_clip_that_minimize_is_given_clips_the_rows_of_an_embedding(mode):
    """Paddle's tests run such a program and ask only that its loss is no NaN."""
    with graph(mode) as made:
        start = paddle.nn.initializer.Constant(1.0)
        words = paddle.static.data("words", [4], "int64")
        table = paddle.nn.Embedding(5, 2, sparse=True, weight_attr=paddle.ParamAttr("table", initializer=start))
        loss = paddle.mean(table(words)) * 8.0  # 1 for each element of a row that was looked up
        paddle.optimizer.SGD(1.0, grad_clip=gradclip.paddle.ClipGradByGlobalNorm(0.5)).minimize(loss)
        made.run({"words": np.array([1, 1, 1, 3])}, [])
        moved = 1.0 - held("table").astype(np.float64)
    # Row 1 was looked up three times: the norm of [3, 3] and [1, 1] is sqrt(20). 1 - 0.3 rounds at 2^-25.
    np.testing.assert_allclose(moved[[1, 3], 0], [3 * 0.5 / 20**0.5, 0.5 / 20**0.5], atol=1e-6)
    assert not moved[[0, 2, 4]].any()


def test_what_is_no_clip_is_refused_by_the_optimizer_and_ours_is_one():
    with pytest.raises(TypeError, match="grad_clip"):
        paddle.optimizer.SGD(0.1, parameters=[parameter(1.0)], grad_clip="test")
    for name in CLIPS.values():
        paddle.optimizer.SGD(0.1, parameters=[parameter(1.0)], grad_clip=getattr(gradclip.paddle, name)(LIMIT))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("kind", CLIPS)
def test_in_dynamic_mode_the_gradients_are_those_of_numpy(kind, dtype, engine):
    """Below the limit, too: nothing is clipped. Of float16 the product has half a step of 2^-11 more."""
    random = np.random.default_rng(3)
    pairs = pairs_of(*(parameter(*random.uniform(-10, 10, size), dtype=dtype) for size in (25, 5)))
    before = [numbers(g) for _, g in pairs]
    for limit in (1e4, 0.8):
        clip = getattr(gradclip.paddle, CLIPS[kind])(limit, engine=engine)
        for (_, found), wanted in zip(clip(pairs), expected(kind, before, limit), strict=True):
            tolerance = CLOSE + (2.0**-11 if dtype == "float16" else 0.0)
            np.testing.assert_allclose(numbers(found), wanted, rtol=tolerance)


@pytest.mark.parametrize("kind", CLIPS)
def test_in_dynamic_mode_pairs_without_a_gradient_go(kind):
    x, y = (paddle.to_tensor(values) for values in ([2.0, 3.0], [3.0, 4.0]))
    clip = getattr(gradclip.paddle, CLIPS[kind])(0.8)
    with pytest.warns(GradclipWarning, match="nothing is clipped"):
        assert clip([(x, None)]) == []
    assert len(clip([(x, x), (x, y), (x, None)])) == 2


@pytest.mark.parametrize("name", CLIPS.values())
def test_a_step_takes_the_clipped_gradients(name):
    """As with Paddle's clip of the same name: of numbers near 1 in float32, so to some steps of 2^-24."""
    moved = []
    for source in (gradclip.paddle, paddle.nn):
        weight = parameter(3.0, -4.0, 0.1)
        paddle.optimizer.SGD(1.0, parameters=[weight], grad_clip=getattr(source, name)(LIMIT)).step()
        moved.append(numbers(weight))
    np.testing.assert_allclose(moved[0], moved[1], atol=4 * 2.0**-24)
    assert np.abs(moved[0]).max() <= LIMIT * (1 + CLOSE)


SHAPES = {
    "a norm above the limit": ((16, 16), 5.0, 2),
    "a norm below it": ((100,), 1e20, 2),
    "the maximum": ((4, 8, 16), 0.5, math.inf),
}


@pytest.mark.parametrize("name", SHAPES)
def test_clip_grad_norm_returns_the_norm_and_clips_to_the_limit(name):
    """Paddle's test has a limit of 1 for the maximum of numbers below 1, which clips nothing."""
    shape, limit, order = SHAPES[name]
    given = np.random.default_rng(5).random(shape).astype("float32")
    ours, theirs = (parameter(grad=paddle.to_tensor(given)) for _ in range(2))
    truth = norm(given) if order == 2 else float(given.max())
    assert float(clip_grad_norm_(ours, limit, order)) == pytest.approx(truth, rel=1e-6)
    assert_close([numbers(ours.grad)], [given.astype(np.float64) * min(1.0, limit / truth)])
    # Paddle's divisor is the norm and 1e-6, and its sums of 512 numbers are float32: 1e-5 covers both.
    assert float(paddle.nn.utils.clip_grad_norm_(theirs, limit, order)) == pytest.approx(truth, rel=1e-5)
    np.testing.assert_allclose(numbers(ours.grad), numbers(theirs.grad), rtol=1e-5)


@pytest.mark.parametrize(("shape", "limit"), [((16, 16), 0.5), ((16, 16), 1.0), ((100,), 3.5)])
def test_clip_grad_value_gives_what_numpy_gives(shape, limit):
    given = np.random.default_rng(5).uniform(-2, 2, shape).astype("float32")
    p = parameter(grad=paddle.to_tensor(given))
    clip_grad_value_(p, limit)
    np.testing.assert_array_equal(p.grad.numpy(), np.clip(given, -np.float32(limit), np.float32(limit)))


def test_what_makes_no_sense_is_an_error_of_the_kind_that_paddle_raises():
    for source in (gradclip.paddle, paddle.nn.utils):
        with pytest.raises(ValueError):
            source.clip_grad_norm_(parameter(1.0), 2.0, norm_type=-math.inf)
        with pytest.raises(RuntimeError, match="non-finite"):
            source.clip_grad_norm_(parameter(1.0, math.inf), 2.0, error_if_nonfinite=True)
        with pytest.raises(ValueError):
            source.clip_grad_value_(parameter(1.0), -1)


@pytest.mark.parametrize("call", [clip_grad_norm_, clip_grad_value_])
def test_in_static_mode_the_functions_are_refused(call):
    p = parameter(1.0)
    with graph("pir"), pytest.raises(RuntimeError, match="a static graph"):
        call(p, 1.0)


def test_differs_an_interval_without_0_is_refused():
    """Paddle's tests clip to [0.1, 0.2], which gives each gradient, of whatever sign, about the same step upwards."""
    p = parameter(-5.0, 0.01)
    ((_, clipped),) = paddle.nn.ClipGradByValue(max=0.2, min=0.1)(pairs_of(p))
    assert clipped.tolist() == pytest.approx([0.1, 0.1])
    with pytest.raises(ValueError, match="an interval without 0 inside would move small gradients away from 0"):
        gradclip.paddle.ClipGradByValue(max=0.2, min=0.1)


def test_differs_a_bound_of_0_is_refused():
    ours, theirs = parameter(1.0), parameter(1.0)
    paddle.nn.utils.clip_grad_value_(theirs, 0)
    assert theirs.grad.item() == 0.0
    with pytest.raises(ValueError, match="to drop the gradients call zero_grad"):
        clip_grad_value_(ours, 0)
    assert ours.grad.item() == 1.0


@pytest.mark.filterwarnings("ignore:Caution! 'set_gradient_clip'")
def test_differs_the_clip_of_a_whole_program_is_not_served():
    """`set_gradient_clip`, against which Paddle itself advises, asks a clip for methods that only its own have."""
    with graph("legacy"):
        pairs = classifier("float32")
        paddle.nn.clip.set_gradient_clip(gradclip.paddle.ClipGradByGlobalNorm(LIMIT))
        with pytest.raises(NotImplementedError):
            paddle.nn.clip.append_gradient_clip_ops(pairs)


def operators(source):
    with graph("legacy") as made:
        pairs = classifier("float32")
        before = len(made.main.global_block().ops)
        source.ClipGradByNorm(LIMIT)(pairs)
        return [op.type for op in made.main.global_block().ops[before:]]


def test_differs_the_operators_of_the_graph_are_other_ones():
    """Paddle's tests list the operators of its own clip; the numbers that ours give are tested above."""
    assert set(operators(paddle.nn)) == {"clip_by_norm"}
    assert "clip_by_norm" not in operators(gradclip.paddle)


def test_rows_that_were_looked_up_twice_count_together():
    """The sparse gradients of Paddle's tests, in dynamic mode: rows [2, 2] and [1, 1] have the norm sqrt(10)."""
    ((_, clipped),) = gradclip.paddle.ClipGradByGlobalNorm(1.0)(pairs_of(embedding(1, 1, 3)))
    np.testing.assert_allclose(numbers(clipped)[[1, 3], 0], [2 / 10**0.5, 1 / 10**0.5], rtol=CLOSE)
