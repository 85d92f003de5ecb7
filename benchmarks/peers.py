"""What else clips: PyTorch's own functions, as their users call them."""

from __future__ import annotations

from collections.abc import Callable

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
