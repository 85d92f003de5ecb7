"""accelerate needs no door: two lines after `prepare`, and the memory is in `save_state`."""

from __future__ import annotations

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

import gradclip
from trainers import small

MODES = ["", "accumulated", "bf16"]


def same(a, b):
    return all(torch.equal(a[key], b[key]) for key in b)


@pytest.mark.parametrize("mode", MODES)
def test_a_training_that_was_killed_goes_on_bit_for_bit_from_load_state(mode, tmp_path):
    small.child("accelerate_train.py", tmp_path, "begin", mode, killed=True)
    for what in ("resume", "through", "forgetful"):
        small.child("accelerate_train.py", tmp_path, what, mode)
    resumed, through, forgetful = (torch.load(tmp_path / f"{what}.pt") for what in ("resume", "through", "forgetful"))
    assert through["memory"]["step"] == (16 if mode == "accumulated" else 32)  # a clip for each real step
    assert resumed["memory"] == through["memory"]
    assert same(resumed["weights"], through["weights"])
    # the oracle sees a memory that was not taken up
    assert forgetful["memory"] != through["memory"]
    assert not same(forgetful["weights"], through["weights"])


def test_accumulated_gradients_are_clipped_once_and_whole():
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    model = small.model()
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    data = torch.utils.data.DataLoader(small.batches(), batch_size=4)
    model, optimizer, data = accelerator.prepare(model, optimizer, data)
    clipper = gradclip.attach(optimizer, gradclip.ClipGradByGlobalNorm(0.5), model=model)
    for x, y in data:
        before = [p.detach().clone() for p in model.parameters()]
        with accelerator.accumulate(model):
            accelerator.backward(torch.nn.functional.mse_loss(model(x), y))
            optimizer.step()
            optimizer.zero_grad()
        moved = torch.cat([(p - old).flatten() for p, old in zip(model.parameters(), before, strict=True)])
        expected = clipper.last.norm_after if accelerator.sync_gradients else 0.0
        assert moved.norm().item() == pytest.approx(expected, rel=1e-5)
    assert clipper.step == 4


def test_fp16_without_a_gpu_is_no_mixed_precision_at_all_in_accelerate():
    AcceleratorState._reset_state(True)  # of the other tests here, which another precision does not suit
    accelerator = Accelerator(cpu=True, mixed_precision="fp16")
    assert accelerator.scaler is None
    assert not accelerator.native_amp
    AcceleratorState._reset_state(True)
