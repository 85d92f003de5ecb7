"""What else clips: PyTorch's own functions, and those of packages that are installed, as their users call them."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

Parameters = list[torch.nn.Parameter]
Call = Callable[[], object]
MEGATRON, APEX = "Transformer Engine, as Megatron-LM calls it", "apex's clip_grad_norm_"


def norm(parameters: Parameters, limit: float) -> Call:
    """One norm over all gradients, by the default path, which is `foreach`."""
    return lambda: clip_grad_norm_(parameters, limit)


def norm_of_each(parameters: Parameters, limit: float) -> Call:
    """The norm of each tensor, for which PyTorch has no function of its own: a loop of calls."""

    def loop() -> None:
        for parameter in parameters:
            clip_grad_norm_([parameter], limit)

    return loop


def value(parameters: Parameters, limit: float, foreach: bool) -> Call:
    """Each element, by foreach operations or by a loop over the tensors."""
    return lambda: clip_grad_value_(parameters, limit, foreach=foreach)


def fused_adamw(parameters: Parameters) -> torch.optim.AdamW:
    """The optimizer that takes `grad_scale`; its rate is too small to move anything from sample to sample."""
    return torch.optim.AdamW(parameters, lr=1e-12, fused=True)


def norm_then_step(parameters: Parameters, limit: float, optimizer: torch.optim.Optimizer) -> Call:
    """PyTorch's clip, then the step."""

    def clip_and_step() -> None:
        clip_grad_norm_(parameters, limit)
        optimizer.step()

    return clip_and_step


@cache
def agc_of_timm() -> Callable[[Parameters], Any] | None:
    """timm's adaptive gradient clipping, None where timm is not installed.

    It is loaded from its file alone: the package around it would ask for torchvision.
    """
    package = importlib.util.find_spec("timm")
    if package is None or not package.submodule_search_locations:
        return None
    file = Path(package.submodule_search_locations[0]) / "utils" / "agc.py"
    spec = importlib.util.spec_from_file_location("timm_agc", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    function: Callable[[Parameters], Any] = module.adaptive_clip_grad
    return function


def on_a_device(parameters: Parameters, limit: float) -> dict[str, Call]:
    """By name, the clips by global norm of packages that read many tensors in one launch on CUDA."""
    found: dict[str, Call] = {}
    if (kernels := transformer_engine()) is not None:
        found[MEGATRON] = norm_by_kernels(kernels, parameters, limit)
    if (function := clip_of_apex()) is not None:
        found[APEX] = partial(function, parameters, limit)
    return found


@cache
def transformer_engine() -> Any | None:
    """The module of Transformer Engine with kernels for many tensors, None where it is not installed."""
    if importlib.util.find_spec("transformer_engine") is None:
        return None
    if importlib.util.find_spec("transformer_engine.pytorch") is None:
        return None
    return importlib.import_module("transformer_engine.pytorch.optimizers")


@cache
def clip_of_apex() -> Callable[..., object] | None:
    """apex's clip, None where apex or its kernels are not installed."""
    if importlib.util.find_spec("amp_C") is None or importlib.util.find_spec("apex.contrib.clip_grad") is None:
        return None
    function: Callable[..., object] = importlib.import_module("apex.contrib.clip_grad").clip_grad_norm_
    return function


def norm_by_kernels(kernels: Any, parameters: Parameters, limit: float) -> Call:
    """A norm and a product by `kernels`; without the product that takes a tensor the host waits for the coefficient."""
    on_tensor = getattr(kernels, "multi_tensor_scale_tensor", None)
    flag = torch.zeros(1, dtype=torch.int32, device=parameters[0].device)

    def clip() -> None:
        gradients = [parameter.grad for parameter in parameters]
        norm, _ = kernels.multi_tensor_applier(kernels.multi_tensor_l2norm, flag, [gradients], False)
        coefficient = limit / (norm + 1e-6)
        if on_tensor is not None:
            kernels.multi_tensor_applier(on_tensor, flag, [gradients, gradients], coefficient.clamp_max_(1.0))
        elif (number := coefficient.item()) < 1.0:
            kernels.multi_tensor_applier(kernels.multi_tensor_scale, flag, [gradients, gradients], number)

    return clip
