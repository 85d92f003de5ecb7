"""U-Clip: what is taken away is carried to the next step, on every engine and through every door."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import optax
import paddle
import pytest
import torch

from benches import BENCHES
from gradclip import (
    L2,
    ClipGradByGlobalNorm,
    ClipGradByNorm,
    ClipGradByValue,
    Constant,
    Global,
    GradientAboveThreshold,
    NonFiniteGradient,
    Raise,
    Rule,
    Rules,
    SkipStep,
    UClip,
    from_dict,
)
from gradclip.clipper import Clipper
from gradclip.optax import clip as optax_clip
from gradclip.paddle import Clip
from gradclip.step.gradients import Gradients
from gradclip.torch import Clipper as TorchClipper
from gradclip.torch import attach
from paddle_graph import graph

STEPS = [
    ([[3.0, -0.5], [0.0]], [[1.0, -0.5], [0.0]]),  # 2 is left of the first element
    ([[0.5, -2.0], [-4.0]], [[1.0, -1.0], [-1.0]]),  # 2.5 is clipped: 1.5, -1 and -3 are left
    ([[-1.0, 0.25], [0.0]], [[0.5, -0.75], [-1.0]]),  # paid out: 0, 0 and -2 are left
    ([[0.0, 0.0], [0.5]], [[0.0, 0.0], [-1.0]]),  # -0.5 is left
]
"""What becomes of gradients by UClip(ClipGradByValue(1.0)); all numbers are exact in float16."""


def clipped(bench, clipper, *arrays, **options):
    return [array.tolist() for array in bench.clip(clipper, [np.array(each) for each in arrays], **options).after]


def test_what_is_taken_away_comes_in_the_next_step(bench):
    clipper = Clipper(UClip(ClipGradByValue(1.0)))
    for before, after in STEPS:
        assert clipped(bench, clipper, *before) == after
    assert clipper.step == len(STEPS)


def test_thresholds_see_the_sum(bench):
    """Norm 5 is clipped to 1, (2.4, 3.2) of norm 4 is left; together with (0.6, 0.8) that is norm 5 again."""
    clipper = Clipper(UClip(ClipGradByGlobalNorm(1.0)))
    for gradient in ([3.0, 4.0], [0.6, 0.8]):
        result = bench.clip(clipper, [np.array(gradient)]).result
    assert result.norm_before == pytest.approx(5.0, rel=1e-6)
    assert result.norm_after == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize("rule", [ClipGradByValue(0.3), ClipGradByNorm(0.7) >> ClipGradByGlobalNorm(1.0)], ids=repr)
def test_nothing_is_lost(bench, rule):
    """The sum of u is that of g less what is carried. In float32 each of 30 steps rounds numbers below 32 thrice, by at
    most 2^-20 each time: 30 * 3 * 2^-20 is below 1e-4.
    """
    draws = np.random.default_rng(0).normal(size=(30, 2, 3)).astype(np.float32).astype(np.float64)
    clipper = Clipper(UClip(rule))
    out = [bench.clip(clipper, list(draw)).after for draw in draws]
    carried = [np.asarray(clipper.memory.carried[f"t{i}"], np.float64) for i in range(2)]
    for i in range(2):
        np.testing.assert_allclose(sum(step[i] for step in out), draws[:, i].sum(axis=0) - carried[i], atol=1e-4)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_step_that_is_not_finite_is_clipped_alone_and_what_is_carried_waits(bench, bad):
    clipper = Clipper(UClip(ClipGradByGlobalNorm(1.0)))
    clipped(bench, clipper, [4.0, 0.0], [0.0])  # (3, 0) is left
    assert clipped(bench, clipper, [0.5, 0.25], [bad])[0] == [0.5, 0.25]
    assert clipped(bench, clipper, [-2.5, 0.0], [0.0]) == [[0.5, 0.0], [0.0]]


def test_a_skipped_step_leaves_what_is_carried(bench):
    """Norms above 8 skip, others are clipped to 1: 2 is left after 3, 9 + 2 skips, and 0.5 + 2 gives 1."""
    clipper = Clipper(UClip(Rule(Global(), L2(), Constant(8.0), SkipStep()) >> ClipGradByGlobalNorm(1.0)))
    assert clipped(bench, clipper, [3.0]) == [[1.0]]
    assert bench.clip(clipper, [np.array([9.0])]).result.skipped
    assert np.asarray(clipper.memory.carried["t0"]).tolist() == [2.0]
    assert clipped(bench, clipper, [0.5]) == [[1.0]]


@pytest.mark.parametrize(
    ("rule", "options", "error"),
    [
        (Rule(Global(), L2(), Constant(1.0), Raise()), {}, GradientAboveThreshold),
        (ClipGradByGlobalNorm(1.0), {"on_nonfinite": "raise"}, NonFiniteGradient),
    ],
)
def test_nothing_is_written_when_it_raises(bench, rule, options, error):
    clipper = Clipper(UClip(rule), **options)
    gradient = np.array([np.nan if options else 3.0, 0.5])
    out = bench.clip(clipper, [gradient])
    assert isinstance(out.error, error)
    assert not out.wrote[0]
    assert clipper.memory.carried == {}


@pytest.mark.filterwarnings("ignore::gradclip.GradclipWarning")
def test_no_number_is_read_on_a_device(bench):
    clipper = Clipper(UClip(ClipGradByNorm(1.0) >> ClipGradByValue(0.5)))
    for values in ([3.0, 4.0], [1.0, np.nan]):
        tensors = bench.tensors([np.array(values), np.array(2.0)])
        with bench.unread():
            clipper.clip_gradients(Gradients(tensors, str), bench.engine)


def test_a_tensor_without_a_gradient_keeps_what_is_carried(bench):
    clipper = Clipper(UClip(ClipGradByValue(1.0)))
    clipped(bench, clipper, [3.0], [5.0])
    clipped(bench, clipper, [0.0], order=[1])
    assert clipped(bench, clipper, [0.0], [0.0], order=[1, 0]) == [[1.0], [1.0]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_what_is_carried_is_wide(door, dtype):
    """Of 256 steps of 2^-9 beside 1 none is lost, though in bfloat16 1 + 2^-9 is 1: they make 0.5 beside the 2."""
    clipper, total = TorchClipper(UClip(ClipGradByValue(1.0)), engine=door.engine), 0.0
    weight = torch.nn.Parameter(torch.zeros(1, dtype=dtype))
    for value in [2.0] + [2.0**-9] * 256:
        weight.grad = torch.tensor([value], dtype=dtype)
        clipper.clip_([weight])
        total += float(weight.grad)
    assert total + float(clipper.memory.carried["parameters[0]"]) == 2.5


def test_a_loss_scale_does_not_reach_what_is_carried():
    """The same gradients under the scales 1 and 1024: 3 gives 1 and leaves 2, then 0 + 2 gives 1, in their unit."""
    clipper, found = Clipper(UClip(ClipGradByValue(1.0))), []
    for scale, value in ((1.0, 3.0), (1024.0, 0.0)):
        gradient = np.array([value * scale])
        clipper.clip_gradients(Gradients([gradient], str, divisor=scale), BENCHES["reference"].engine)
        found.append(gradient[0] / scale)
    assert found == [1.0, 1.0]


def test_skewed_noise_moves_a_clipped_descent_from_the_optimum_and_not_a_carrying_one(door):
    """The noise is -1 in nine of ten steps and 9 in the tenth, 0 in the mean, and the gradient at x is x + noise.
    Clipped to 2, its mean is 0.9 (x - 1) + 0.1 * 2, which is 0 at x = 0.7 / 0.9; the optimum is 0.
    """
    ends = {}
    for name, rule in (("plain", ClipGradByValue(2.0)), ("carried", UClip(ClipGradByValue(2.0)))):
        weight = torch.nn.Parameter(torch.zeros(1))
        optimizer = torch.optim.SGD([weight], lr=0.01)
        clipper = attach(optimizer, rule, engine=door.engine)
        positions = []
        for step in range(1000):
            weight.grad = weight.detach() + (9.0 if step % 10 == 9 else -1.0)
            optimizer.step()
            positions.append(float(weight.detach()))
        clipper.detach()
        ends[name] = np.mean(positions[-500:])
    assert ends["plain"] == pytest.approx(0.7 / 0.9, abs=0.02)  # one step moves x by 0.02 at most
    assert ends["carried"] == pytest.approx(0.0, abs=0.1)


def test_a_saved_state_goes_on_bit_for_bit(door):
    def run(clipper, draws):
        weight, out = torch.nn.Parameter(torch.zeros(3)), []
        for draw in draws:
            weight.grad = draw.clone()
            clipper.clip_([weight])
            out.append(weight.grad)
        return torch.stack(out)

    draws = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    clipper = TorchClipper(UClip(ClipGradByNorm(0.5)), engine=door.engine)
    run(clipper, draws[:3])
    file = io.BytesIO()
    torch.save(clipper.state_dict(), file)
    other = TorchClipper(UClip(ClipGradByNorm(0.5)), engine=door.engine)
    other.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    assert torch.equal(run(clipper, draws[3:]), run(other, draws[3:]))


def test_a_sparse_gradient_is_refused_by_name(door):
    embedding = torch.nn.Embedding(3, 2, sparse=True)
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(TypeError, match="'weight' cannot be clipped: it is sparse, and this rule has a number"):
        TorchClipper(UClip(ClipGradByValue(0.5)), engine=door.engine).clip_(embedding)


def test_another_model_is_refused_by_the_name_of_its_tensor(door):
    clipper = TorchClipper(UClip(ClipGradByValue(1.0)), engine=door.engine)
    for shape in (2, 3):
        weight = torch.nn.Parameter(torch.zeros(shape))
        weight.grad = torch.full((shape,), 3.0)
        if shape == 3:
            with pytest.raises(ValueError, match=r"'parameters\[0\]' has the shape \(2,\), and its gradient \(3,\)"):
                clipper.clip_([weight])
        else:
            clipper.clip_([weight])


def test_it_is_no_part_of_another_rule():
    carry, rule = UClip(ClipGradByValue(1.0)), ClipGradByNorm(1.0)
    for combined in (lambda: carry >> rule, lambda: rule >> carry, lambda: Rules({"*": carry})):
        with pytest.raises(TypeError, match="UClip is for a whole rule, and here it is a part of one"):
            combined()
    with pytest.raises(TypeError, match="is that of a rule"):
        UClip(carry)


def test_it_is_written_and_read_as_data():
    rule = UClip(ClipGradByNorm(1.0) >> ClipGradByValue(0.5))
    assert from_dict(rule.to_dict()) == rule


def test_a_coefficient_that_a_fused_optimizer_applies_is_refused():
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([weight], fused=True)
    with pytest.raises(ValueError, match="through_grad_scale writes no gradient"):
        attach(optimizer, UClip(ClipGradByGlobalNorm(1.0)), through_grad_scale=True)


@pytest.mark.parametrize("engine", ["cpu", "paddle"])
def test_an_optimizer_of_paddle_carries(engine):
    weight = paddle.create_parameter([1], "float32")
    weight.set_value(paddle.zeros([1]))
    clip = Clip(UClip(ClipGradByValue(1.0)), engine=engine)
    optimizer = paddle.optimizer.SGD(1.0, parameters=[weight], grad_clip=clip)
    seen = []
    for gradient in (3.0, 0.5, -1.0):
        (weight * gradient).sum().backward()
        optimizer.step()
        optimizer.clear_grad()
        seen.append(weight.item())
    assert seen == [-1.0, -2.0, -2.5]


def test_a_static_graph_of_paddle_is_refused_by_name():
    with graph("pir"):
        x = paddle.static.data("x", [1, 2])
        loss = paddle.static.nn.fc(x, 1).mean()
        optimizer = paddle.optimizer.SGD(1.0, grad_clip=Clip(UClip(ClipGradByValue(1.0))))
        with pytest.raises(NotImplementedError, match="a static graph carries nothing over to the next run"):
            optimizer.minimize(loss)


def test_a_compiled_step_of_jax_carries_in_its_state():
    tx = optax.chain(optax_clip(UClip(ClipGradByValue(1.0))), optax.sgd(1.0))
    params = {"a": jnp.zeros(2), "b": jnp.zeros(1, jnp.bfloat16)}
    state = tx.init(params)
    step = jax.jit(tx.update)
    for before, after in STEPS:
        gradients = {"a": jnp.array(before[0]), "b": jnp.array(before[1], jnp.bfloat16)}
        updates, following = step(gradients, state, params)
        assert jax.tree.map(jax.typeof, following) == jax.tree.map(jax.typeof, state)
        state = following
        assert [(-updates[name]).tolist() for name in ("a", "b")] == after
    assert state[0].carried["b"].dtype == jnp.float32
    assert state[0].carried["b"].tolist() == [-0.5]


def test_a_skipped_step_of_jax_leaves_what_is_carried():
    rule = UClip(Rule(Global(), L2(), Constant(8.0), SkipStep()) >> ClipGradByGlobalNorm(1.0))
    tx = optax_clip(rule, inner=optax.sgd(1.0))
    params = {"w": jnp.zeros(1)}
    state = tx.init(params)
    for value, expected in ((3.0, 2.0), (9.0, 2.0), (0.5, 1.5)):
        _, state = jax.jit(tx.update)({"w": jnp.array([value])}, state, params)
        assert state.carried["w"].tolist() == [expected]
