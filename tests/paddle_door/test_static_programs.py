"""The documented static programs, in which only the import of the clip changes, in PIR and in legacy static mode."""

import numpy as np
import paddle
import pytest

from gradclip.paddle import ClipGradByGlobalNorm, ClipGradByNorm, ClipGradByValue
from paddle_graph import MODES, graph, held

CLIPS = {
    "value": lambda **options: ClipGradByValue(max=0.5, min=-1.0, **options),
    "norm": lambda **options: ClipGradByNorm(clip_norm=1.0, **options),
    "global norm": lambda **options: ClipGradByGlobalNorm(clip_norm=1.0, **options),
}
WEIGHT, BIAS = "fc.weight", "fc.bias"
WHAT = {"all": (True, True), "only the weight": (True, False), "only the bias": (False, True)}


def batch(seed=0):
    return np.random.default_rng(seed).uniform(-100, 100, (32, 2)).astype("float32")


def program(clip, weight=True, bias=True):
    """Data, a layer with relu, its mean, and SGD; returns the loss."""
    data = paddle.static.data(name="x", shape=[None, 2], dtype="float32")
    hidden = paddle.static.nn.fc(
        x=data,
        size=10,
        activation="relu",
        weight_attr=paddle.ParamAttr(WEIGHT, need_clip=weight),
        bias_attr=paddle.ParamAttr(BIAS, need_clip=bias),
    )
    loss = paddle.mean(hidden)
    paddle.optimizer.SGD(learning_rate=0.1, grad_clip=clip).minimize(loss)
    return loss


def gradients(x, weight, bias):
    """The gradients of the loss by hand, in fp64: of a mean of relu, each output that is above 0 counts alike."""
    above = (x.astype("float64") @ weight + bias > 0) / (len(x) * 10)
    return {WEIGHT: x.T.astype("float64") @ above, BIAS: above.sum(axis=0)}


def clipped(kind, found):
    """What the three clips are defined to make of the gradients."""
    if kind == "value":
        return {name: np.clip(g, -1.0, 0.5) for name, g in found.items()}
    norms = {name: np.linalg.norm(g) for name, g in found.items()}
    if kind == "global norm":
        norms = dict.fromkeys(norms, np.linalg.norm(list(norms.values())))
    return {name: g / max(1.0, norms[name]) for name, g in found.items()}


def require_trained(made, loss, kind, chosen):
    """One run moves the parameters by 0.1 times the clipped gradients, the others by 0.1 times their own."""
    x = batch()
    made.start()
    before = {name: held(name).astype("float64") for name in (WEIGHT, BIAS)}
    (value,) = made.run({"x": x}, [loss])
    assert np.isfinite(value)
    own = gradients(x, before[WEIGHT], before[BIAS])
    expected = own | clipped(kind, {name: own[name] for name in chosen})
    for name in (WEIGHT, BIAS):
        moved = (before[name] - held(name)) / 0.1
        # fp32 stores parameters below 2 to 2^-24, and the division by 0.1 makes ten of it
        np.testing.assert_allclose(moved, expected[name], rtol=1e-5, atol=20 * 2.0**-24)


@pytest.mark.parametrize("what", WHAT)
@pytest.mark.parametrize("kind", CLIPS)
@pytest.mark.parametrize("mode", MODES)
def test_the_documented_program_clips_what_it_says(mode, kind, what):
    weight, bias = WHAT[what]
    with graph(mode) as made:
        loss = program(CLIPS[kind](), weight, bias)
        require_trained(made, loss, kind, [WEIGHT] * weight + [BIAS] * bias)


@pytest.mark.parametrize("kind", CLIPS)
@pytest.mark.parametrize("mode", MODES)
def test_need_clip_may_be_a_function_of_the_parameter(mode, kind):
    with graph(mode) as made:
        loss = program(CLIPS[kind](need_clip=lambda parameter: parameter.name == WEIGHT))
        require_trained(made, loss, kind, [WEIGHT])


@pytest.mark.parametrize("mode", MODES)
def test_the_norm_can_be_read_after_a_run(mode):
    clip = CLIPS["global norm"]()
    with graph(mode) as made:
        loss = program(clip)
        made.start()
        own = gradients(batch(), held(WEIGHT), held(BIAS))
        made.run({"x": batch()}, [loss])
        # the gradients themselves are sums of 32 products in fp32
        assert clip.last.norm_before == pytest.approx(np.linalg.norm([np.linalg.norm(g) for g in own.values()]), 1e-5)
        assert clip.last.norm_after == pytest.approx(1.0, 1e-6)
        assert (clip.last.clipped, clip.last.step, clip.last.engine) == (True, 0, "paddle")
        made.run({"x": batch() * 1e-3}, [loss])
        assert (clip.last.clipped, clip.last.step) == (False, 1)


def exploding(clip):
    """Three linear layers drawn far too large and shifted, and the mean squared error of y = x + 3."""
    x = paddle.static.data("x", [16, 1], "float32")
    drawn = paddle.nn.initializer.Normal(0.0, 1.0)
    first = paddle.nn.initializer.Normal(2.0, 1.0)
    out = x
    for size, initializer in ((32, first), (32, drawn), (1, drawn)):
        attr, biased = paddle.ParamAttr(initializer=initializer), paddle.ParamAttr(initializer=drawn)
        out = paddle.static.nn.fc(out, size, weight_attr=attr, bias_attr=biased)
    loss = paddle.nn.functional.mse_loss(out, x + 3.0)
    paddle.optimizer.SGD(learning_rate=0.01, grad_clip=clip).minimize(loss)
    return loss


def losses(mode, clip, steps):
    points = np.random.default_rng(0).standard_normal((steps, 16, 1)).astype("float32")
    with graph(mode) as made:
        made.seed(1)
        loss = exploding(clip)
        return [float(made.run({"x": x}, [loss])[0]) for x in points]


@pytest.mark.parametrize("mode", MODES)
def test_the_exploding_net_reaches_nan_without_and_trains_with_clipped_weights(mode):
    """Only the biases clipped, it is gone within five steps; with the weights clipped too it trains."""
    without = losses(mode, ClipGradByNorm(1.0, need_clip=lambda parameter: ".b_" in parameter.name), 5)
    assert np.isnan(without[-1])
    with_weights = losses(mode, ClipGradByNorm(1.0), 150)
    assert np.isfinite(with_weights).all()
    assert np.mean(with_weights[-10:]) < with_weights[0] / 100


PADDLE_FAILS = [
    ("pir", lambda: paddle.nn.ClipGradByValue(max=0.5, min=-1.0), NotImplementedError, "value"),
    ("pir", lambda: paddle.nn.ClipGradByGlobalNorm(1.0, auto_skip_clip=True), TypeError, "global norm"),
    ("legacy", lambda: paddle.nn.ClipGradByGlobalNorm(1.0), TypeError, "global norm"),
    ("legacy", lambda: paddle.nn.ClipGradByGlobalNorm(1.0, auto_skip_clip=True), TypeError, "global norm"),
]


@pytest.mark.parametrize(("mode", "theirs", "error", "kind"), PADDLE_FAILS)
def test_where_the_clip_of_paddle_cannot_be_built_ours_can(mode, theirs, error, kind):
    with graph(mode), pytest.raises(error):
        program(theirs())
    with graph(mode) as made:
        require_trained(made, program(CLIPS[kind]()), kind, [WEIGHT, BIAS])


@pytest.mark.parametrize(
    ("mode", "theirs", "kind"),
    [
        ("legacy", lambda: paddle.nn.ClipGradByValue(max=0.5, min=-1.0), "value"),
        ("pir", lambda: paddle.nn.ClipGradByNorm(1.0), "norm"),
        ("legacy", lambda: paddle.nn.ClipGradByNorm(1.0), "norm"),
        ("pir", lambda: paddle.nn.ClipGradByGlobalNorm(1.0), "global norm"),
    ],
)
def test_where_the_clip_of_paddle_works_it_gives_the_same_numbers(mode, theirs, kind):
    with graph(mode) as made:
        require_trained(made, program(theirs()), kind, [WEIGHT, BIAS])


def trained(clip, wrap):
    """The parameters of a layer after two steps, its forward pass wrapped by `wrap`."""
    paddle.seed(0)
    layer = paddle.nn.Linear(2, 10)
    forward = wrap(layer)
    optimizer = paddle.optimizer.SGD(0.1, parameters=layer.parameters(), grad_clip=clip)
    for step in range(2):
        paddle.mean(paddle.nn.functional.relu(forward(paddle.to_tensor(batch(step))))).backward()
        optimizer.step()
        optimizer.clear_grad()
    return [parameter.numpy() for parameter in layer.parameters()]


@pytest.mark.parametrize("kind", CLIPS)
def test_a_layer_that_became_a_program_trains_as_before(kind):
    """The forward and backward passes are a static graph then, and the step is not."""
    clip = CLIPS[kind]()
    for plain, static in zip(trained(CLIPS[kind](), lambda layer: layer), trained(clip, jit), strict=True):
        np.testing.assert_allclose(static, plain, rtol=1e-6)
    assert (clip.last.step, clip.last.clipped) == (1, True)


def jit(layer):
    return paddle.jit.to_static(layer, full_graph=True)
