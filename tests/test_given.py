"""Numbers that are given beside the gradients: a step is skipped when the loss is a spike."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import paddle
import pytest
import torch

from benches import BENCHES, unread
from gradclip import EMA, L2, Global, History, Linf, Ratio, Rule, SkipSpikes, SkipStep, Tensor, min_of
from gradclip.clipper import Clipper
from gradclip.engines.torch import DEVICE
from gradclip.optax import clip as optax_clip
from gradclip.paddle import Clip
from gradclip.rules.combine import Given
from gradclip.step.gradients import Gradients
from gradclip.torch import Clipper as TorchClipper
from gradclip.torch import attach
from gradclip.torch.clipper import number_for
from paddle_graph import graph

LOSSES = [1.0, 2.0, 1.0, 2.0, 9.0, 1.5]
"""Mean 1.5 and deviation 0.577 of the first four: with 6 deviations 9 is above 4.96, and with 9 learnt 1.5 is below."""

SKIPPED = [False, False, False, False, True, False]
RULE = SkipSpikes(sigmas=6.0, window=8, warmup=4, max_norm=None, loss=True)


def linear(door):
    """A weight, plain descent on it, and the clipper of its steps."""
    weight = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    return weight, optimizer, attach(optimizer, RULE, engine=door.engine)


def stepped(weight, optimizer, clipper, loss):
    """Whether a step with this loss was skipped; the gradient is (1, 1)."""
    weight.grad = torch.ones(2)
    before = weight.detach().clone()
    clipper.give(loss=loss)
    optimizer.step()
    assert bool((before == weight).all()) == clipper.last.skipped
    return clipper.last.skipped


@pytest.mark.parametrize("kind", [float, torch.tensor, lambda loss: torch.tensor([loss], dtype=torch.float64)])
def test_a_step_with_a_spike_of_the_loss_is_skipped(door, kind):
    weight, optimizer, clipper = linear(door)
    assert [stepped(weight, optimizer, clipper, kind(loss)) for loss in LOSSES] == SKIPPED


def test_losses_may_be_negative(door):
    weight, optimizer, clipper = linear(door)
    assert [stepped(weight, optimizer, clipper, loss - 100.0) for loss in LOSSES] == SKIPPED


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_non_finite_loss_is_neither_compared_nor_learnt(door, bad):
    weight, optimizer, clipper = linear(door)
    losses = [*LOSSES[:2], bad, *LOSSES[2:4], bad, *LOSSES[4:]]
    skipped = [stepped(weight, optimizer, clipper, loss) for loss in losses]
    assert skipped == [*SKIPPED[:2], False, *SKIPPED[2:4], False, *SKIPPED[4:]]


def test_the_loss_of_a_closure_needs_no_words(door):
    weight, optimizer, clipper = linear(door)
    skipped = []
    for loss in LOSSES:

        def closure(loss=loss):
            weight.grad = torch.ones(2)
            return torch.tensor(loss, requires_grad=True)

        optimizer.step(closure)
        skipped.append(clipper.last.skipped)
    assert skipped == SKIPPED


def test_a_loss_is_for_one_step_and_its_absence_is_refused_before_anything_is_written(door):
    weight, optimizer, clipper = linear(door)
    stepped(weight, optimizer, clipper, 1.0)
    weight.grad = torch.ones(2)
    with pytest.raises(ValueError, match=r"reads the loss, which was not given at step 1: call clipper\.give\(loss="):
        optimizer.step()
    assert weight.tolist() == [-1.0, -1.0]
    assert weight.grad.tolist() == [1.0, 1.0]


def test_the_explicit_form_is_given_the_loss_too(door):
    clipper, weight = TorchClipper(RULE, engine=door.engine), torch.nn.Parameter(torch.zeros(2))
    skipped = []
    for loss in LOSSES:
        weight.grad = torch.ones(2)
        clipper.give(loss=loss)
        skipped.append(clipper.clip_([weight]).skipped)
    assert skipped == SKIPPED


def test_what_is_not_one_number_is_refused():
    clipper = Clipper(RULE)
    with pytest.raises(ValueError, match=r"the loss is one number, got a tensor of shape \(3,\): give its mean"):
        clipper.give(loss=torch.ones(3))
    with pytest.raises(TypeError, match="the loss is a number or a tensor of one element, got None"):
        clipper.give(loss=None)


def test_a_resumed_clipper_knows_the_losses(door):
    weight, optimizer, clipper = linear(door)
    for loss in LOSSES[:4]:
        stepped(weight, optimizer, clipper, loss)
    state = clipper.state_dict()
    weight, optimizer, clipper = linear(door)
    clipper.load_state_dict(state)
    assert stepped(weight, optimizer, clipper, LOSSES[4])


@pytest.mark.parametrize("loss", [3.0, torch.tensor(3.0, requires_grad=True), torch.tensor([3.0], dtype=torch.float16)])
def test_on_a_device_the_loss_is_not_read(loss):
    like = torch.zeros(2)
    with unread():
        number = number_for(DEVICE, loss, like)
    assert (number.tolist(), number.dtype, number.requires_grad) == ([3.0], torch.float64, False)


@pytest.mark.parametrize("engine", ["cpu", "paddle"])
def test_paddle_skips_a_spike_of_the_loss(engine):
    weight = paddle.create_parameter([2], "float32")
    clip = Clip(RULE, engine=engine)
    optimizer = paddle.optimizer.SGD(1.0, parameters=[weight], grad_clip=clip)
    skipped = []
    for loss in LOSSES:
        before = weight.numpy()
        weight.sum().backward()
        clip.give(loss=paddle.to_tensor(loss))
        optimizer.step()
        optimizer.clear_grad()
        skipped.append(clip.last.skipped)
        assert bool((before == weight.numpy()).all()) == clip.last.skipped
    assert skipped == SKIPPED


def test_a_static_graph_of_paddle_is_refused_by_name():
    rule = Rule(Global(), L2(), Given(History(EMA(0.5), Ratio(2.0))))
    with graph("pir"):
        x = paddle.static.data("x", [1, 2])
        loss = paddle.static.nn.fc(x, 1).mean()
        optimizer = paddle.optimizer.SGD(1.0, grad_clip=Clip(rule))
        with pytest.raises(
            NotImplementedError, match="given nothing beside the gradients, and the rule reads the loss"
        ):
            optimizer.minimize(loss)


@pytest.mark.parametrize("name", ["loss", "value"])
def test_jax_skips_a_spike_of_the_loss_in_a_compiled_step(name):
    tx = optax_clip(RULE, inner=optax.adam(0.1))
    params = {"w": jnp.zeros(2)}
    state = tx.init(params)

    def step(state, loss):
        # a norm of 5, which the memory in float32 holds exactly: it is not above what it was
        return tx.update({"w": jnp.array([3.0, 4.0])}, state, params, **{name: loss})[1]

    skipped = []
    for loss in LOSSES:
        state = jax.jit(step)(state, jnp.float32(loss))
        skipped.append(bool(state.last.skipped))
    assert skipped == SKIPPED


def test_jax_refuses_a_step_without_the_loss():
    tx = optax_clip(RULE, inner=optax.sgd(0.1))
    params = {"w": jnp.zeros(2)}
    with pytest.raises(
        ValueError, match=r"reads the loss, which was not given: .* in JAX update\(\.\.\., loss=\.\.\.\)"
    ):
        tx.update(params, tx.init(params), params)


@pytest.mark.parametrize("name", list(BENCHES))
def test_every_tensor_of_every_engine_follows_the_loss(name):
    """The mean of the losses 2 and 2 is 2, and 5 is above twice of it; the tensors that come and go know that."""
    rule = Rule(Tensor(), L2(), min_of(Given(History(EMA(0.5), Ratio(2.0)))), SkipStep())
    clipper, skipped, bench = Clipper(rule), [], BENCHES[name]
    with jax.enable_x64(True):
        for loss, order in ((2.0, [0, 1]), (2.0, [1]), (5.0, [1, 0]), (3.0, [0, 1])):
            tensors = bench.tensors([np.ones(2)] * len(order))
            batch = bench.engine.gather(bench.tensors([np.array([loss])]))
            number = bench.engine.measure(batch, Tensor(), Linf()).total
            gradients = Gradients(tensors, [f"t{i}" for i in order].__getitem__, given={"loss": number})
            with bench.unread():
                result = clipper.clip_gradients(gradients, bench.engine)
            skipped.append(result.skipped)
    assert skipped == [False, False, True, False]
