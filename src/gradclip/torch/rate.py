"""How far SGD moves the parameters for a gradient of norm 1: what a threshold that is a length is divided by."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer

from gradclip.errors import UnsuitedRule
from gradclip.torch.base_step import updates_as

Rate = float | Tensor


def lasting_rate(optimizers: Iterable[Optimizer]) -> Rate:
    """The largest rate of all groups that train, with what the momentum repeats of it; nothing waits for a device.

    Which groups train they say themselves, alike in all processes, wherever there is a gradient. Where all rates are 0,
    what is repeated is heard at the rates to come alone, and they count. Raises `UnsuitedRule` for an optimizer that is
    not SGD.
    """
    groups = [(group, one) for one in optimizers for group in refuse_others(one).param_groups]
    at_work = [pair for pair in groups if any(p.requires_grad for p in pair[0]["params"])] or groups
    heard = [_heard(*pair) for pair in at_work]
    rate = _largest([_size(group["lr"]) * times for (group, _), times in zip(at_work, heard, strict=True)])
    if not isinstance(rate, Tensor) and rate > 0.0:
        return rate
    to_come = _largest([_rate_to_come(*pair) * times for pair, times in zip(at_work, heard, strict=True)])
    if not isinstance(rate, Tensor):
        return to_come
    return torch.where(rate > 0.0, rate, torch.as_tensor(to_come, dtype=rate.dtype, device=rate.device))


def _largest(rates: list[Rate]) -> Rate:
    device = next((rate.device for rate in rates if isinstance(rate, Tensor)), None)
    if device is None:
        return max(rates)
    return torch.stack([torch.as_tensor(rate, dtype=torch.float64, device=device) for rate in rates]).amax()


def refuse_others(optimizer: Optimizer) -> Optimizer:
    """The optimizer, if the length of its steps follows the gradient."""
    kind: Any = type(optimizer)
    if not updates_as(kind, SGD):
        raise UnsuitedRule(
            f"StepLength reads the learning rate of SGD, and the steps of {kind.__name__} are no multiples "
            "of the gradient: take ClipGradByGlobalNorm(...), or hand over a rate of your own before each step, "
            "clipper.give(rate=...)"
        )
    return optimizer


def _heard(group: dict[str, Any], optimizer: Optimizer) -> float:
    """How often a gradient is heard in all: `w / (1 - momentum)`, with `w` what the momentum takes up of it."""
    momentum = float(group["momentum"])
    if momentum >= 1.0:
        raise ValueError(f"with a momentum of {momentum:g} a gradient moves the parameters for ever: write one below 1")
    return _taken_up(group, optimizer) / (1.0 - momentum)


def _rate_to_come(group: dict[str, Any], optimizer: Optimizer) -> Rate:
    """The largest rate that the group, its schedule or the optimizer names; 0 without momentum."""
    if float(group["momentum"]) == 0.0:
        return 0.0
    named = (group.get("initial_lr", 0.0), group.get("max_lr", 0.0), optimizer.defaults["lr"])
    return _largest(list(map(_size, named)))


def _taken_up(group: dict[str, Any], optimizer: Optimizer) -> float:
    """The share of a gradient that the momentum takes up, of the first one all of it."""
    dampening = float(group["dampening"])
    if dampening == 0.0 or float(group["momentum"]) == 0.0:
        return 1.0
    known = (optimizer.state.get(p, {}).get("momentum_buffer") for p in group["params"] if p.grad is not None)
    first = any(momentum is None for momentum in known)
    return max(abs(1.0 - dampening), 1.0 if first else 0.0)


def _size(rate: Any) -> Rate:
    """The size of a rate, as a float where it is no tensor."""
    return rate.abs() if isinstance(rate, Tensor) else abs(float(rate))
