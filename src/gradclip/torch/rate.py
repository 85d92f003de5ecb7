"""How far SGD moves the parameters for a gradient of norm 1: what a threshold that is a length is divided by."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer

from gradclip.torch.base_step import updates_as

Rate = float | Tensor


def lasting_rate(optimizers: Iterable[Optimizer]) -> Rate:
    """The largest rate of all groups, with what the momentum repeats of it; nothing waits for a device that has one.

    Raises `ValueError` for an optimizer that is not SGD.
    """
    rates = [_rate_of(group, one) for one in optimizers for group in refuse_others(one).param_groups]
    device = next((rate.device for rate in rates if isinstance(rate, Tensor)), None)
    if device is None:
        return max(rates)
    return torch.stack([torch.as_tensor(rate, dtype=torch.float64, device=device) for rate in rates]).amax()


def refuse_others(optimizer: Optimizer) -> Optimizer:
    """The optimizer, if the length of its steps follows the gradient."""
    kind: Any = type(optimizer)
    if not updates_as(kind, SGD):
        raise ValueError(
            f"StepLength reads the learning rate of SGD, and the steps of {kind.__name__} are no multiples "
            "of the gradient: take ClipGradByGlobalNorm(...), or hand over a rate of your own before each step, "
            "clipper.give(rate=...)"
        )
    return optimizer


def _rate_of(group: dict[str, Any], optimizer: Optimizer) -> Rate:
    """`lr w / (1 - momentum)`, with `w` what the momentum takes up of a gradient."""
    momentum, rate = float(group["momentum"]), group["lr"]
    if momentum == 0.0:
        return _size(rate)
    if momentum >= 1.0:
        raise ValueError(f"with a momentum of {momentum:g} a gradient moves the parameters for ever: write one below 1")
    largest = group.get("initial_lr", optimizer.defaults["lr"])
    return _of_echoes(_size(rate), _size(largest)) * (_taken_up(group, optimizer) / (1.0 - momentum))


def _of_echoes(rate: Rate, largest: Rate) -> Rate:
    """`rate`, or where that is 0, and the gradient is heard at the rates to come alone, the one they rise to."""
    if isinstance(rate, Tensor):
        return torch.where(rate > 0.0, rate, torch.as_tensor(largest, dtype=rate.dtype, device=rate.device))
    return rate if rate > 0.0 else largest


def _taken_up(group: dict[str, Any], optimizer: Optimizer) -> float:
    """The share of a gradient that the momentum takes up, of the first one all of it."""
    dampening = float(group["dampening"])
    if dampening == 0.0:
        return 1.0
    known = (optimizer.state.get(p, {}).get("momentum_buffer") for p in group["params"] if p.grad is not None)
    first = any(momentum is None for momentum in known)
    return max(abs(1.0 - dampening), 1.0 if first else 0.0)


def _size(rate: Any) -> Rate:
    """The size of a rate, as a float where it is no tensor."""
    return rate.abs() if isinstance(rate, Tensor) else abs(float(rate))
