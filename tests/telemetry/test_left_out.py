"""The steps that a GradScaler leaves out for an overflow are events, though it calls no optimizer for them."""

import gc
import math

import pytest
import torch
from torch.amp import GradScaler

from gradclip.engines.torch import DEVICE
from gradclip.telemetry import Telemetry, memory
from gradclip.torch import attach
from training import RULE, batch, make_model

OPTIMIZERS = {
    "plain": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    "fused": lambda parameters: torch.optim.AdamW(parameters, lr=0.01, fused=True),
}
UNTOUCHED = GradScaler.step


def scaled_step(model, optimizers, scaler, step, overflows=False, unscales=False):
    """One step of a training under a GradScaler; where it `overflows` the gradients are infinite."""
    x, y = batch(step)
    for optimizer in optimizers:
        optimizer.zero_grad()
    scaler.scale(((model(x) - y) ** 2).mean() * (math.inf if overflows else 1.0)).backward()
    for optimizer in optimizers if unscales else ():
        scaler.unscale_(optimizer)
    for optimizer in optimizers:
        scaler.step(optimizer)
    scaler.update()


def trained(kind, overflows, telemetry=None, unscales=False, on_device=False):
    """The parameters after five steps, of which some overflow, and the clipper."""
    model = make_model()
    optimizer, scaler = OPTIMIZERS[kind](model.parameters()), GradScaler("cpu", init_scale=1024.0)
    clipper = attach(optimizer, RULE, model=model, telemetry=telemetry)
    if on_device:
        clipper.engine_for = lambda gradients: DEVICE
    for step in range(5):
        scaled_step(model, [optimizer], scaler, step, step in overflows, unscales)
    clipper.detach()
    return torch.cat([p.detach().flatten() for p in model.parameters()]), clipper


def check_steps_left_out(kind, unscales=False, on_device=False, overflows=(0, 3, 4)):
    seen = memory()
    trained(kind, overflows, Telemetry(seen), unscales, on_device)
    assert [event.step for event in seen] == list(range(5))
    assert [event.skipped for event in seen] == [step in overflows for step in range(5)]
    for step in overflows:
        assert not math.isfinite(seen[step].norm_before)
        assert seen[step].nonfinite >= 1
        assert (seen[step].norm_after, seen[step].clipped) == (0.0, False)
    return seen


@pytest.mark.parametrize("unscales", [False, True])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_each_step_left_out_is_an_event_at_its_time(kind, unscales):
    seen = check_steps_left_out(kind, unscales)
    assert seen[0].offenders == ("0.weight", "0.bias", "2.weight")


def test_a_fused_optimizer_on_a_device_leaves_out_what_the_event_says():
    check_steps_left_out("fused", on_device=True)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_hearing_of_them_changes_no_bit_of_the_training(kind):
    heard, _ = trained(kind, (0, 3), Telemetry(memory()))
    unheard, _ = trained(kind, (0, 3))
    assert torch.equal(heard, unheard)


def two_optimizers(kind, overflows):
    """The events of two optimizers under one norm."""
    model, seen = make_model(), memory()
    optimizers = [OPTIMIZERS[kind](part.parameters()) for part in (model[0], model[2])]
    scaler = GradScaler("cpu", init_scale=1024.0)
    with attach(*optimizers, RULE, telemetry=Telemetry(seen)):
        for step in range(3):
            scaled_step(model, optimizers, scaler, step, step in overflows, unscales=True)
    return seen


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_step_of_several_optimizers_is_one_event(kind):
    assert [event.skipped for event in two_optimizers(kind, (1,))] == [False, True, False]


def test_of_two_optimizers_each_tells_of_its_own_step():
    """The first steps by the norm of what is finite, and the other one is left out."""
    model, seen = make_model(), memory()
    optimizers = [OPTIMIZERS["plain"](part.parameters()) for part in (model[0], model[2])]
    scaler = GradScaler("cpu", init_scale=1024.0)
    with attach(*optimizers, RULE, telemetry=Telemetry(seen)):
        scaler.scale(model(batch(0)[0]).sum()).backward()
        model[2].bias.grad[0] = math.inf
        for optimizer in optimizers:
            scaler.unscale_(optimizer)
        for optimizer in optimizers:
            scaler.step(optimizer)
    assert [(event.skipped, event.offenders) for event in seen] == [(False, ()), (True, ("group 1, parameter 1",))]


def test_a_resumed_run_goes_on_counting():
    _, clipper = trained("plain", (1, 3), Telemetry(memory()))
    model, seen = make_model(), memory()
    optimizer = OPTIMIZERS["plain"](model.parameters())
    resumed = attach(optimizer, RULE, telemetry=Telemetry(seen))
    resumed.load_state_dict(clipper.state_dict())
    scaled_step(model, [optimizer], GradScaler("cpu"), 5)
    assert [event.step for event in seen] == [5]


def test_an_infinity_that_is_not_clipped_is_still_a_step_left_out():
    model, seen = make_model(), memory()
    optimizer, scaler = OPTIMIZERS["plain"](model.parameters()), GradScaler("cpu")
    with attach(optimizer, RULE, telemetry=Telemetry(seen, tensors=True), need_clip=lambda p: p.dim() > 1):
        scaler.scale(model(batch(0)[0]).sum()).backward()
        model[0].bias.grad[0] = math.inf
        scaler.step(optimizer)
    (event,) = seen
    assert (event.skipped, event.nonfinite, event.offenders, event.tensors) == (True, 1, (), None)


def test_the_scaler_is_itself_again_when_nobody_listens():
    gc.collect()
    model = make_model()
    optimizers = [OPTIMIZERS["plain"](part.parameters()) for part in (model[0], model[2])]
    attach(optimizers[0], RULE).detach()
    assert GradScaler.step is UNTOUCHED
    first, second = (attach(optimizer, RULE, telemetry=Telemetry(memory())) for optimizer in optimizers)
    assert GradScaler.step is not UNTOUCHED
    first.detach()
    assert GradScaler.step is not UNTOUCHED
    second.detach()
    assert GradScaler.step is UNTOUCHED


def test_the_scaler_is_itself_again_when_the_clipper_is_gone():
    optimizer = OPTIMIZERS["plain"](make_model().parameters())
    attach(optimizer, RULE, telemetry=Telemetry(memory()))
    assert GradScaler.step is not UNTOUCHED
    del optimizer
    gc.collect()
    assert GradScaler.step is UNTOUCHED


def test_a_scaler_that_is_off_and_an_optimizer_of_nobody_step_as_before():
    model, seen = make_model(), memory()
    optimizers = [OPTIMIZERS["plain"](part.parameters()) for part in (model[0], model[2])]
    with attach(optimizers[0], RULE, telemetry=Telemetry(seen)):
        scaled_step(model, optimizers, GradScaler("cpu", enabled=False), 0)
        scaled_step(model, optimizers[1:], GradScaler("cpu"), 1, overflows=True)
    assert [event.skipped for event in seen] == [False]


class Wrapper:
    """An optimizer as libraries wrap it."""

    def __init__(self, optimizer):
        self.optimizer, self.param_groups = optimizer, optimizer.param_groups
        self.step, self.zero_grad = optimizer.step, optimizer.zero_grad


@pytest.mark.parametrize("wrapped", [lambda optimizer: optimizer, Wrapper], ids=["plain", "wrapped"])
def test_a_step_that_a_compiled_function_leaves_out_is_heard(wrapped):
    model, seen = make_model(), memory()
    optimizer = wrapped(OPTIMIZERS["plain"](model.parameters()))
    scaler = GradScaler("cpu", init_scale=1024.0)
    with attach(optimizer, RULE, telemetry=Telemetry(seen)):
        scaler.step = torch.compile(scaler.step, backend="eager")
        for step in range(3):
            scaled_step(model, [optimizer], scaler, step, overflows=step == 1)
    assert [event.skipped for event in seen] == [False, True, False]
