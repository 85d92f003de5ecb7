"""The first weights of a net, as PyTorch draws them, from a seed of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

Net = TypeVar("Net", bound=torch.nn.Module)


def drawn(make: Callable[[], Net], seed: int) -> Net:
    """The net that `make` makes with this seed; what else draws numbers is not disturbed."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        return make()
