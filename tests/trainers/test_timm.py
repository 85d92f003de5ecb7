"""timm's clipping functions: the same numbers where timm is right, and the true ones where it is not."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from pathlib import Path

import pytest
import torch

import gradclip.timm
from gradclip.errors import GradclipWarning

if importlib.util.find_spec("timm") is None:
    pytest.skip("timm is not installed", allow_module_level=True)

SHAPES = [(8, 3, 3, 3), (16, 5), (7,), ()]
MODES = ["norm", "value", "agc"]
ULPS = 4e-6
"""timm's norms are float32 sums of up to 27 squares, a division and a product: some ten roundings of 6e-8 each, twice
over for what is multiplied by them."""


@pytest.fixture(scope="module")
def timm_cuda():
    """`timm.utils.cuda`, also where torchvision is missing, which `timm` imports at its top for other parts."""
    if importlib.util.find_spec("torchvision") is not None:
        return importlib.import_module("timm.utils.cuda")
    folder = Path(importlib.util.find_spec("timm").submodule_search_locations[0])
    for name, path in (("timm", folder), ("timm.utils", folder / "utils")):
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = [str(path)]
    return importlib.import_module("timm.utils.cuda")


def parameters(dtype=torch.float32, scale=1.0):
    generator = torch.Generator().manual_seed(0)
    found = []
    for shape in SHAPES:
        parameter = torch.nn.Parameter(torch.randn(shape, generator=generator).to(dtype))
        parameter.grad = (scale * torch.randn(shape, generator=generator)).to(dtype)
        found.append(parameter)
    return found


@pytest.mark.parametrize("norm_type", [1.0, 2.0, 3.0, float("inf")])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("value", [0.05, 0.5])
def test_where_timm_is_right_the_numbers_are_those_of_timm(timm_cuda, mode, norm_type, value):
    ours, theirs = parameters(), parameters()
    gradclip.timm.dispatch_clip_grad(iter(ours), value, mode=mode, norm_type=norm_type)
    timm_cuda.dispatch_clip_grad(iter(theirs), value, mode=mode, norm_type=norm_type)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=ULPS, atol=0)
    assert any(not torch.equal(a.grad, before.grad) for a, before in zip(ours, parameters(), strict=True))


def test_fp16_gradients_whose_norm_is_beyond_fp16_are_clipped_where_timm_writes_zeros(timm_cuda):
    def large():
        weight = torch.nn.Parameter(torch.ones(2, 4, dtype=torch.float16))
        weight.grad = torch.full((2, 4), 6e4, dtype=torch.float16)
        return weight

    ours, theirs, true = large(), large(), large()
    gradclip.timm.dispatch_clip_grad([ours], 0.1, mode="agc")
    timm_cuda.dispatch_clip_grad([theirs], 0.1, mode="agc")
    wide = true.grad.double()
    expected = wide * (0.1 * true.detach().double().norm(dim=1, keepdim=True) / wide.norm(dim=1, keepdim=True))
    assert theirs.grad.eq(0).all()
    torch.testing.assert_close(ours.grad.double(), expected, rtol=2**-10, atol=0)  # one rounding to float16


def test_one_gradient_that_is_not_finite_leaves_the_others_clipped_and_is_named():
    weight = torch.nn.Parameter(torch.ones(2, 2))
    weight.grad = torch.tensor([[float("inf"), 1.0], [3.0, 4.0]])
    gradclip.timm._clipper.cache_clear()
    with pytest.warns(GradclipWarning, match=r"parameters\[0\]"):
        gradclip.timm.dispatch_clip_grad([weight], 0.1, mode="agc")
    assert weight.grad[0].tolist() == [float("inf"), 1.0]
    assert weight.grad[1].norm().item() == pytest.approx(0.1 * 2**0.5, rel=1e-6)


def test_the_scaler_of_timm_clips_by_it_after_one_line(timm_cuda, monkeypatch):
    monkeypatch.setattr(timm_cuda, "dispatch_clip_grad", gradclip.timm.dispatch_clip_grad)
    model = torch.nn.Linear(2, 1)
    before = [p.detach().clone() for p in model.parameters()]
    scaler = timm_cuda.NativeScaler(device="cpu")
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    loss = 100.0 * model(torch.ones(8, 2)).sum()
    scaler(loss, optimizer, clip_grad=0.5, parameters=model.parameters())
    moved = torch.cat([(p.detach() - old).flatten() for p, old in zip(model.parameters(), before, strict=True)])
    assert moved.norm().item() == pytest.approx(0.5, rel=1e-6)


def test_another_mode_is_refused_by_the_names_of_those_there_are():
    with pytest.raises(ValueError, match="'norm', 'value', 'agc', got 'sum'"):
        gradclip.timm.dispatch_clip_grad(parameters(), 1.0, mode="sum")
    for mode in MODES:
        with pytest.raises(ValueError, match="0"):
            gradclip.timm.dispatch_clip_grad(parameters(), 0.0, mode=mode)
