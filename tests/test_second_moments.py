"""SPAM: each element against its second moment in the optimizer, on every engine and through every door."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import paddle
import pytest
import torch

from benches import BENCHES
from gradclip import SPAM, ClipGradByGlobalNorm, Element, Linf, Rule, Smooth, min_of
from gradclip.clipper import Clipper
from gradclip.engines.base import Slot
from gradclip.optax import clip as optax_clip
from gradclip.paddle import Clip
from gradclip.rules.threshold import SecondMoment
from gradclip.step.gradients import Gradients
from gradclip.torch import Clipper as TorchClipper
from gradclip.torch import attach
from paddle_graph import graph

NOW = SPAM(4.0, warmup=0)
"""The threshold is 2 sqrt(v)."""


def value(bench, numbers):
    """A tensor as optimizers keep it: not in a slot."""
    (tensor,) = bench.tensors([np.array(numbers)])
    return tensor.value if isinstance(tensor, Slot) else tensor


def clip(bench, gradients, moments, rule=NOW, **options):
    """The gradients that the rule leaves, the clipper, and the result."""
    tensors = bench.tensors([np.array(each) for each in gradients])
    held = [None if each is None else value(bench, each) for each in moments]
    clipper = Clipper(rule, **options)
    with bench.unread():
        result = clipper.clip_gradients(Gradients(tensors, str, moments=lambda: held), bench.engine)
    return [bench.values(tensor).tolist() for tensor in tensors], result


def test_each_element_has_its_own_threshold(bench):
    """2 sqrt(v) is 2, 6 and 1."""
    after, result = clip(bench, [[5.0, -5.0], [-3.0]], [[1.0, 9.0], [0.25]])
    assert after == [[2.0, -5.0], [-1.0]]
    assert [row.threshold for row in result.segments] == [1.0] * 4
    assert [row.coefficient for row in result.segments] == pytest.approx([0.4, 1.0, 1.0, 1 / 3], rel=1e-6)
    assert result.norm_before == 3.0  # 3 times its threshold


def test_an_element_without_a_second_moment_is_not_clipped(bench):
    assert clip(bench, [[5.0, 5.0], [7.0]], [[0.0, 1.0], None])[0] == [[5.0, 2.0], [7.0]]


@pytest.mark.filterwarnings("ignore::gradclip.GradclipWarning", "ignore:invalid value:RuntimeWarning")
def test_a_non_finite_element_stays_itself_or_becomes_its_threshold(bench):
    """As by value: an infinity becomes its threshold, NaN stays, and without a threshold both stay."""
    tensors = bench.tensors([np.array([np.nan, np.inf, -np.inf, 5.0])])
    moments = [value(bench, [1.0, 1.0, 0.0, 1.0])]
    result = Clipper(NOW).clip_gradients(Gradients(tensors, str, moments=lambda: moments), bench.engine)
    np.testing.assert_array_equal(bench.values(tensors[0]), [np.nan, 2.0, -np.inf, 2.0])
    assert result.nonfinite > 0


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_zero_writes_zeros_for_non_finite_elements(bench):
    tensors = bench.tensors([np.array([np.nan, -np.inf, 5.0])])
    moments = [value(bench, [1.0, 0.0, 1.0])]
    clipper = Clipper(NOW, on_nonfinite="zero")
    clipper.clip_gradients(Gradients(tensors, str, moments=lambda: moments), bench.engine)
    assert bench.values(tensors[0]).tolist() == [0.0, 0.0, 2.0]


def test_another_response_bends_towards_the_threshold(bench):
    """The reciprocal kind at r = 1: half of 2."""
    rule = Rule(Element(), Linf(), SecondMoment(4.0, 0), Smooth())
    assert clip(bench, [[2.0, 0.0]], [[1.0, 1.0]], rule)[0] == [[1.0, 0.0]]


def test_it_chains(bench):
    after, _ = clip(bench, [[5.0, -5.0]], [[2.25, 4.0]], NOW >> ClipGradByGlobalNorm(1.0))
    assert after[0] == pytest.approx([0.6, -0.8], rel=1e-6)


def test_a_loss_scale_counts():
    gradient = np.array([5.0, 1.0]) * 1024.0
    moments = [np.array([1.0, 1.0])]
    gradients = Gradients([gradient], str, divisor=1024.0, moments=lambda: moments)
    Clipper(NOW).clip_gradients(gradients, BENCHES["reference"].engine)
    assert gradient.tolist() == [2048.0, 1024.0]


def test_the_warm_up_clips_nothing():
    rule, gradient = SPAM(4.0, warmup=2), np.array([5.0])
    clipper = Clipper(rule)
    for expected in (5.0, 5.0, 2.0):
        gradients = Gradients([gradient], str, moments=lambda: [np.array([1.0])])
        clipper.clip_gradients(gradients, BENCHES["reference"].engine)
        assert gradient.tolist() == [expected]


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW, torch.optim.NAdam, torch.optim.RAdam])
def test_the_second_moment_is_that_of_the_optimizer(door, kind):
    """Adam keeps v = 0.1 g^2 with beta2 = 0.9: after g = 1 it is 0.1, and 2 sqrt(0.1) is 0.632."""
    weight = torch.nn.Parameter(torch.zeros(2))
    optimizer = kind([weight], betas=(0.9, 0.9))
    clipper = attach(optimizer, NOW, engine=door.engine)
    for gradient in ([1.0, 0.0], [3.0, 3.0]):
        weight.grad = torch.tensor(gradient)
        optimizer.step()
    assert weight.grad.tolist() == pytest.approx([0.4**0.5, 3.0], rel=1e-6)
    assert clipper.last.clipped


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.RMSprop, torch.optim.Adagrad])
def test_an_optimizer_without_it_is_refused_before_anything_is_written(kind):
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = kind([weight], lr=0.1)
    attach(optimizer, SPAM())
    weight.grad = torch.ones(1)
    with pytest.raises(ValueError, match=f"{kind.__name__} keeps no second moment .* use it with Adam"):
        optimizer.step()
    assert weight.tolist() == [0.0]


def test_in_a_later_stage_too_nothing_is_written_before_it_is_refused(door):
    weight, embedding = torch.nn.Parameter(torch.zeros(1)), torch.nn.Embedding(2, 2, sparse=True)
    for parameters, kind, message in (
        ([weight], torch.optim.SGD, "keeps no second moment"),
        ([weight, embedding.weight], torch.optim.Adam, "it is sparse"),
    ):
        optimizer = kind(parameters, lr=0.1)
        attach(optimizer, ClipGradByGlobalNorm(1.0) >> SPAM(), engine=door.engine)
        weight.grad = torch.tensor([9.0])
        embedding(torch.tensor([0])).sum().backward()
        with pytest.raises((ValueError, TypeError), match=message):
            optimizer.step()
        assert weight.grad.tolist() == [9.0]


def test_adamax_is_refused_once_it_shows_that_it_has_none():
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.Adamax([weight])
    attach(optimizer, SPAM())
    for error in (False, True):
        weight.grad = torch.ones(1)
        if error:
            with pytest.raises(ValueError, match="Adamax keeps no second moment"):
                optimizer.step()
        else:
            optimizer.step()


def test_a_door_without_an_optimizer_says_what_is_missing():
    weight = torch.nn.Parameter(torch.zeros(1))
    weight.grad = torch.ones(1)
    with pytest.raises(ValueError, match="reads the second moments of an optimizer like Adam, and there are none"):
        TorchClipper(SPAM()).clip_([weight])


@pytest.mark.parametrize("engine", ["cpu", "paddle"])
def test_the_second_moment_is_that_of_the_optimizer_of_paddle(engine):
    weight = paddle.create_parameter([2], "float32")
    clip = Clip(NOW, engine=engine)
    optimizer = paddle.optimizer.Adam(0.1, beta2=0.9, parameters=[weight], grad_clip=clip)
    for gradient in ([1.0, 0.0], [3.0, 3.0]):
        (weight * paddle.to_tensor(gradient)).sum().backward()
        optimizer.step()
        before = optimizer._accumulators["moment2"][weight.name].numpy()
        optimizer.clear_grad()
    # v was 0.1 and 0, so 3 became 2 sqrt(0.1) and stayed 3; then v = 0.9 v + 0.1 g^2
    assert before.tolist() == pytest.approx([0.09 + 0.04, 0.9], rel=1e-6)


def test_paddle_refuses_an_optimizer_without_it():
    weight = paddle.create_parameter([1], "float32")
    optimizer = paddle.optimizer.SGD(0.1, parameters=[weight], grad_clip=Clip(SPAM()))
    weight.sum().backward()
    with pytest.raises(ValueError, match="SGD keeps no second moment"):
        optimizer.step()


def test_a_static_graph_of_paddle_has_none():
    with graph("pir"):
        x = paddle.static.data("x", [1, 2])
        optimizer = paddle.optimizer.Adam(0.1, grad_clip=Clip(SPAM()))
        with pytest.raises(ValueError, match=r"and there are none: .* Paddle \(dynamic mode\)"):
            optimizer.minimize(paddle.static.nn.fc(x, 1).mean())


def test_jax_is_given_the_moments():
    tx = optax.chain(optax_clip(NOW), optax.scale_by_adam(b2=0.9))
    params = {"a": jnp.zeros(2), "b": jnp.zeros(())}
    state = tx.init(params)

    @jax.jit
    def step(gradients, state):
        return tx.update(gradients, state, params, moments=optax.tree.get(state, "nu"))[1]

    for gradient in ([1.0, 0.0], [3.0, 3.0]):
        state = step({"a": jnp.array(gradient), "b": jnp.array(gradient[0])}, state)
    assert optax.tree.get(state, "nu")["a"].tolist() == pytest.approx([0.09 + 0.04, 0.9], rel=1e-6)
    assert bool(optax.tree.get(state, "last").clipped)


def test_jax_refuses_a_step_without_them():
    tx = optax_clip(NOW)
    params = {"a": jnp.zeros(2)}
    with pytest.raises(ValueError, match=r"update\(\.\.\., moments=\.\.\.\) in JAX"):
        tx.update(params, tx.init(params))
    with pytest.raises(ValueError, match="moments has no leaf 'a'"):
        tx.update(params, tx.init(params), moments={"b": jnp.zeros(2)})


def test_it_stands_alone_and_for_elements():
    with pytest.raises(ValueError, match=r"write scope=Element\(\)"):
        Rule(threshold=SecondMoment())
    with pytest.raises(ValueError, match="stands alone"):
        min_of(1.0, SecondMoment())
