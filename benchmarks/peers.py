"""What else clips: PyTorch's own functions, and timm's, as their users call them."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

Parameters = list[torch.nn.Parameter]
Call = Callable[[], object]


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
