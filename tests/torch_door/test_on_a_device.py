"""The hook as it runs for gradients on an accelerator, whose numbers it must not read; here on CPU tensors."""

import copy

import pytest
import torch

import gradclip
from gradclip.engines.torch import DEVICE
from gradclip.step.policy import EVERY
from gradclip.torch import attach
from torch_tensors import unread
from training import FUSED, RULE, backward, batch, by_hand, make_model, parameters_after


def attach_on_device(optimizer, rule, **options):
    clipper = attach(optimizer, rule, **options)
    clipper.engine_for = lambda gradients: DEVICE
    return clipper


@pytest.mark.parametrize("on_nonfinite", [policy.name for policy in EVERY if not policy.raises])
@pytest.mark.parametrize("rule", [RULE, gradclip.ClipGradByNorm(0.01), gradclip.ClipGradByValue(0.01)])
def test_the_hook_reads_no_number(rule, on_nonfinite):
    model = make_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)
    clipper = attach_on_device(optimizer, rule, on_nonfinite=on_nonfinite)
    backward(model, 0)
    clipper._clip_for(optimizer)  # constants are copied to the device once
    with unread():
        clipper._clip_for(optimizer)
    assert clipper.last.norm_before > 0


@pytest.mark.parametrize(("kind", "options"), [*FUSED, (torch.optim.SGD, {"lr": 0.1})])
def test_it_trains_as_clipping_by_hand(kind, options):
    model = make_model()
    optimizer = kind(model.parameters(), **options)
    attach_on_device(optimizer, RULE)
    # the engines sum in another order: one rounding of the norm, carried through 5 steps
    torch.testing.assert_close(parameters_after(model, optimizer), by_hand(kind, options), rtol=2e-6, atol=2e-7)


@pytest.mark.parametrize(("kind", "options"), FUSED)
def test_a_fused_optimizer_is_told_to_skip_by_a_flag_on_the_device(kind, options):
    model = make_model()
    optimizer = kind(model.parameters(), **options)
    clipper = attach_on_device(optimizer, RULE, on_nonfinite="skip")
    parameters_after(model, optimizer, steps=2)
    optimizer.zero_grad()
    backward(model, 2)
    model[0].weight.grad[0, 0] = float("nan")
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    optimizer.step()
    torch.testing.assert_close((model.state_dict(), optimizer.state_dict()), before, rtol=0, atol=0)
    assert clipper.last.skipped
    assert not hasattr(optimizer, "found_inf")
    optimizer.zero_grad()
    backward(model, 3)
    optimizer.step()
    assert not clipper.last.skipped


def test_an_optimizer_that_takes_no_flag_has_its_gradients_taken_away():
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    attach_on_device(optimizer, RULE, on_nonfinite="skip")
    backward(model, 0)
    model[0].weight.grad[0, 0] = float("inf")
    before = copy.deepcopy(model.state_dict())
    optimizer.step()
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize("through", [False, True])
def test_the_loss_scale_stays_on_the_device(through):
    model = make_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)
    clipper = attach_on_device(optimizer, RULE, through_grad_scale=through)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for step in range(5):
        optimizer.zero_grad()
        x, y = batch(step)
        scaler.scale(((model(x) - y) ** 2).mean()).backward()
        scaler.step(optimizer)
        scaler.update()
    assert 0.1 < clipper.last.norm_before < 10
    got = torch.cat([p.detach().flatten() for p in model.parameters()])
    expected = by_hand(torch.optim.AdamW, {"lr": 0.01, "fused": True})
    torch.testing.assert_close(got, expected, rtol=2e-6, atol=2e-7)


def test_a_coefficient_through_grad_scale_is_never_read():
    model = make_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)
    clipper = attach_on_device(optimizer, RULE, through_grad_scale=True)
    backward(model, 0)
    clipper._clip_for(optimizer)
    with unread():
        clipper._clip_for(optimizer)
    assert optimizer.grad_scale > 1
    clipper._step_attributes.restore()
    assert not hasattr(optimizer, "grad_scale")
