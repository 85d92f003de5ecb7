"""How far SGD moves the parameters for a gradient of norm 1: what a threshold that is a length is divided by."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer


def lasting_rate(optimizers: Iterable[Optimizer]) -> float | Tensor:
    """The largest `lr (1 - dampening) / (1 - momentum)` of all groups; nothing waits for a device that has one.

    Raises `ValueError` for an optimizer that is not SGD.
    """
    rates = [_rate_of(group) for optimizer in optimizers for group in refuse_others(optimizer).param_groups]
    device = next((rate.device for rate in rates if isinstance(rate, Tensor)), None)
    if device is None:
        return max(rates)
    return torch.stack([torch.as_tensor(rate, dtype=torch.float64, device=device) for rate in rates]).amax()


def refuse_others(optimizer: Optimizer) -> Optimizer:
    """The optimizer, if the length of its steps follows the gradient."""
    if not isinstance(optimizer, SGD):
        raise ValueError(
            f"StepLength reads the learning rate of SGD, and the steps of {type(optimizer).__name__} are no multiples "
            "of the gradient: take ClipGradByGlobalNorm(...), or hand over a rate of your own before each step, "
            "clipper.give(rate=...)"
        )
    return optimizer


def _rate_of(group: dict[str, object]) -> float | Tensor:
    momentum = float(group["momentum"])  # type: ignore[arg-type]
    if momentum >= 1.0:
        raise ValueError(f"with a momentum of {momentum:g} a gradient moves the parameters for ever: write one below 1")
    rate: float | Tensor = group["lr"] * ((1.0 - float(group["dampening"])) / (1.0 - momentum))  # type: ignore
    return rate
