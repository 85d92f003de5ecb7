"""The clips in Paddle's optimizers, with its scaler, its `Model`, and what makes a step."""

from __future__ import annotations

import inspect

import numpy as np
import paddle
import pytest

from gradclip import AGC, GradclipWarning
from gradclip import ClipGradByGlobalNorm as GlobalNorm
from gradclip.paddle import Clip, ClipGradByGlobalNorm, ClipGradByNorm, ClipGradByValue, Clipper
from paddle_eager import numbers, parameter, scaler_on_cpu, stepped
from paddle_graph import graph

CLIPS = {"value": ClipGradByValue, "norm": ClipGradByNorm, "global norm": ClipGradByGlobalNorm}
ADAPTIVE = ["Adam", "AdamW", "Lamb", "Adamax", "Adagrad", "Adadelta", "RMSProp", "NAdam", "RAdam"]
OPTIMIZERS = {name: getattr(paddle.optimizer, name) for name in ["SGD", "Momentum", "ASGD", "Rprop", *ADAPTIVE]}


def made(kind, parameters, clip, **options):
    """An optimizer; those that want more than a rate get it."""
    options = {"learning_rate": 0.1, "parameters": parameters, "grad_clip": clip, **options}
    if "batch_num" in inspect.signature(kind).parameters:
        options["batch_num"] = 1
    return kind(**options)


def state_of(optimizer):
    return {name: value.numpy().tolist() for name, value in optimizer.state_dict().items() if hasattr(value, "numpy")}


@pytest.mark.parametrize("kind", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_every_optimizer_steps_on_the_clipped_gradient(kind):
    """The parameter moves as one whose gradient was [0.6, 0.8] from the beginning."""
    clipped, small = parameter(3.0, 4.0), parameter(0.6, 0.8)
    paddle.seed(0)
    found = stepped(made(kind, [clipped], ClipGradByGlobalNorm(1.0)), clipped)
    paddle.seed(0)
    wanted = stepped(made(kind, [small], None), small)
    assert found[0] == pytest.approx(wanted[0], rel=1e-6)


@pytest.mark.parametrize("decay", [None, 0.1])
@pytest.mark.parametrize("kind", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_skipped_step_changes_neither_parameters_nor_moments(kind, decay):
    p = parameter(1.0, 2.0)
    decays = decay is not None and "weight_decay" in inspect.signature(kind).parameters
    options = {"weight_decay": decay} if decays else {}
    optimizer = made(kind, [p], ClipGradByGlobalNorm(1.0, on_nonfinite="skip"), **options)
    optimizer.step()
    values, state = numbers(p).tolist(), state_of(optimizer)
    p.grad = paddle.to_tensor([float("nan"), 1.0])
    optimizer.step()
    assert numbers(p).tolist() == values
    assert state_of(optimizer) == state
    p.grad = paddle.to_tensor([1.0, 1.0])
    optimizer.step()
    assert numbers(p).tolist() != values


@pytest.mark.parametrize("kind", ["Adam", "Momentum"])
def test_an_optimizer_that_updates_all_tensors_at_once_is_clipped_and_refuses_skips(kind):
    def optimizer(p, **options):
        clip = ClipGradByGlobalNorm(1.0, **options)
        return getattr(paddle.optimizer, kind)(0.1, parameters=[p], grad_clip=clip, use_multi_tensor=True)

    clipped, small = parameter(3.0, 4.0), parameter(0.6, 0.8)
    assert stepped(optimizer(clipped), clipped)[0] == pytest.approx(stepped(optimizer(small), small)[0], rel=1e-6)
    with pytest.raises(NotImplementedError, match="cannot leave a step out"):
        optimizer(clipped, on_nonfinite="skip").step()


def test_clipping_comes_before_the_weight_decay():
    p = parameter(3.0, 4.0)
    p.set_value(paddle.to_tensor([1.0, 1.0]))
    optimizer = paddle.optimizer.Momentum(
        1.0, momentum=0.0, parameters=[p], weight_decay=0.5, grad_clip=ClipGradByGlobalNorm(1.0)
    )
    assert stepped(optimizer, p)[0] == pytest.approx([1 - 0.6 - 0.5, 1 - 0.8 - 0.5], abs=1e-6)


def test_accumulated_gradients_are_clipped_once():
    p = parameter(0.0, 0.0)
    p.grad = None
    clip = ClipGradByGlobalNorm(1.0)
    optimizer = paddle.optimizer.SGD(1.0, parameters=[p], grad_clip=clip)
    for part in ([1.0, 2.0], [2.0, 2.0]):
        (p * paddle.to_tensor(part)).sum().backward()
    assert stepped(optimizer, p)[0] == pytest.approx([-0.6, -0.8], rel=1e-6)
    assert (clip.last.norm_before, clip.clipper.step) == (5.0, 1)


def test_a_scheduler_of_the_rate_sees_clipped_steps():
    p = parameter(3.0, 4.0)
    rate = paddle.optimizer.lr.StepDecay(1.0, step_size=1, gamma=0.5)
    optimizer = paddle.optimizer.SGD(rate, parameters=[p], grad_clip=ClipGradByGlobalNorm(1.0))
    optimizer.step()
    rate.step()
    assert stepped(optimizer, p)[0] == pytest.approx([-0.9, -1.2], rel=1e-6)


def test_minimize_clips_as_well():
    p = parameter(0.0, 0.0)
    p.grad = None
    clip = ClipGradByGlobalNorm(1.0)
    loss = (p * paddle.to_tensor([3.0, 4.0])).sum()
    loss.backward()
    paddle.optimizer.SGD(1.0, parameters=[p], grad_clip=clip).minimize(loss)
    assert numbers(p).tolist() == pytest.approx([-0.6, -0.8], rel=1e-6)


def test_the_scaler_unscales_before_the_clip():
    p = parameter(0.0, 0.0)
    p.grad = None
    clip = ClipGradByGlobalNorm(1.0)
    optimizer, scaler = paddle.optimizer.SGD(1.0, parameters=[p], grad_clip=clip), scaler_on_cpu()
    scaled = scaler.scale((p * paddle.to_tensor([3.0, 4.0])).sum())
    scaled.backward()
    assert numbers(p.grad).tolist() == [3072.0, 4096.0]
    scaler.step(optimizer)
    scaler.update()
    assert clip.last.norm_before == 5.0
    assert numbers(p).tolist() == pytest.approx([-0.6, -0.8], rel=1e-6)


@pytest.mark.parametrize("grouped", [False, True])
def test_an_overflow_that_the_scaler_found_is_no_step_of_the_clip(grouped):
    p = parameter(0.0)
    p.grad = None
    clip = ClipGradByGlobalNorm(1.0, on_nonfinite="raise")
    optimizer = paddle.optimizer.Adam(parameters=[{"params": [p]}] if grouped else [p], grad_clip=clip)
    scaler = scaler_on_cpu()
    scaler.scale((p * paddle.to_tensor([float("inf")])).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert (clip.clipper.step, numbers(p)) == (0, 0.0)
    optimizer.clear_grad()
    scaler.scale((p * paddle.to_tensor([3.0])).sum()).backward()
    scaler.step(optimizer)
    assert (clip.clipper.step, clip.last.norm_before) == (1, 3.0)
    assert numbers(p) < 0.0


@pytest.mark.parametrize("kind", CLIPS.values(), ids=CLIPS)
def test_the_high_level_model_trains_with_it(kind):
    paddle.seed(0)
    net = paddle.nn.Linear(4, 2)
    clip = kind(0.01)
    model = paddle.Model(net)
    model.prepare(paddle.optimizer.Adam(0.01, parameters=net.parameters(), grad_clip=clip), paddle.nn.MSELoss())
    x, y = np.full((16, 4), 10.0, "float32"), np.zeros((16, 2), "float32")
    data = paddle.io.TensorDataset([paddle.to_tensor(x), paddle.to_tensor(y)])
    model.fit(data, batch_size=4, epochs=1, verbose=0)
    assert clip.clipper.step == 4
    assert clip.last.clipped


CLIPS = [ClipGradByNorm(1.0), ClipGradByGlobalNorm(1.0), ClipGradByValue(1.0), Clip(AGC(0.1))]


@pytest.mark.parametrize("clip", CLIPS, ids=repr)
def test_the_high_level_model_takes_every_clip_at_level_o2(clip):
    """It asserts classes of Paddle there."""
    net = paddle.nn.Linear(2, 2)
    model = paddle.Model(net)
    model.prepare(paddle.optimizer.SGD(0.1, parameters=net.parameters(), grad_clip=clip), amp_configs="O2")
    assert not isinstance(clip, paddle.nn.ClipGradByGlobalNorm)  # which fleet would replace


@pytest.mark.filterwarnings("ignore:Caution")
@pytest.mark.parametrize("clip", CLIPS, ids=repr)
def test_the_old_way_of_a_clip_for_a_whole_program_is_refused_with_the_line_to_write(clip):
    """In the legacy graphs for which Paddle keeps it, its own operators would come in silently."""
    with graph("legacy"):
        weight = paddle.create_parameter([2], "float32")
        paddle.nn.clip.set_gradient_clip(clip, param_list=[weight])
        with pytest.raises(NotImplementedError, match=r"would not clip by this rule: .*grad_clip=clip"):
            paddle.optimizer.SGD(0.1).minimize(paddle.mean(weight * weight))


@pytest.mark.filterwarnings("ignore:.*is deprecated since")
@pytest.mark.parametrize("where", [paddle.optimizer.LBFGS, paddle.incubate.optimizer.LBFGS])
def test_lbfgs_never_calls_its_clip_and_it_is_said_when_it_is_made(where):
    p = parameter(3.0, 4.0)
    clip = ClipGradByGlobalNorm(1.0)
    with pytest.warns(GradclipWarning, match="never calls it"):
        where(parameters=[p], grad_clip=clip)
    where(parameters=[p], grad_clip=paddle.nn.ClipGradByGlobalNorm(1.0))


def test_in_the_closure_of_lbfgs_the_explicit_form_clips():
    p = parameter(0.0, 0.0)
    optimizer = paddle.optimizer.LBFGS(learning_rate=1.0, max_iter=1, parameters=[p])
    clipper = Clipper(GlobalNorm(1.0))

    def closure():
        optimizer.clear_grad()
        loss = ((p - paddle.to_tensor([3.0, 4.0])) ** 2).sum()
        loss.backward()
        clipper.clip_([p])
        return loss

    optimizer.step(closure)
    assert clipper.last.norm_before == pytest.approx(10.0 if clipper.step == 1 else clipper.last.norm_before)
    # The first step of LBFGS is the gradient over the sum of its magnitudes: [0.6, 0.8] / 1.4.
    assert numbers(p).tolist() == pytest.approx([0.6 / 1.4, 0.8 / 1.4], rel=1e-5)


def test_under_to_static_the_step_outside_is_clipped():
    net = paddle.jit.to_static(paddle.nn.Linear(4, 1))
    clip = Clip(GlobalNorm(1.0))
    optimizer = paddle.optimizer.SGD(0.1, parameters=net.parameters(), grad_clip=clip)
    net(paddle.full([8, 4], 100.0)).sum().backward()
    optimizer.step()
    assert clip.last.norm_before == pytest.approx((4 * 800.0**2 + 8.0**2) ** 0.5, rel=1e-6)
    assert clip.last.norm_after == pytest.approx(1.0, rel=1e-6)
