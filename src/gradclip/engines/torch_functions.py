"""The array functions that decide on tensors of one axis, wherever they lie; none of them waits for a device."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch

from gradclip.rules.arrays import Operand


class TorchFunctions:
    """`ArrayFunctions` for tensors of one axis on their device."""

    sqrt = staticmethod(torch.sqrt)
    tanh = staticmethod(torch.tanh)
    either = staticmethod(torch.logical_or)
    any = staticmethod(torch.any)

    @staticmethod
    def where(condition: torch.Tensor, then: Operand, other: Operand) -> torch.Tensor:
        if isinstance(then, int | float) and isinstance(other, torch.Tensor) and other.is_floating_point():
            return other.masked_fill(condition, then)  # one operation, where the number becomes no tensor
        return torch.where(condition, then, other)

    @staticmethod
    def power(a: torch.Tensor, exponent: float) -> torch.Tensor:
        return a**exponent

    @staticmethod
    def maximum(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.clamp(a, min=b)

    @staticmethod
    def nonfinite(a: torch.Tensor) -> torch.Tensor:
        return a * 0.0 != 0.0  # two operations, where `isfinite` takes four

    @staticmethod
    def array(values: Sequence[float], like: torch.Tensor) -> torch.Tensor:
        if values and isinstance(values[0], list):
            return torch.tensor(values, dtype=like.dtype).to(like.device)
        return uploaded(tuple(values), like.dtype, like.device)

    @staticmethod
    def indices(values: Sequence[int], like: torch.Tensor) -> torch.Tensor:
        return uploaded(tuple(values), torch.int64, like.device)

    @staticmethod
    def take(a: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        return a[..., index]

    @staticmethod
    def sort(a: torch.Tensor) -> torch.Tensor:
        return torch.sort(a, dim=0).values

    @staticmethod
    def sum(a: torch.Tensor) -> torch.Tensor:
        return a.sum(dim=0)

    @staticmethod
    def column(n: int, like: torch.Tensor) -> torch.Tensor:
        return torch.arange(n, dtype=like.dtype, device=like.device)[:, None]

    @staticmethod
    def combine(a: torch.Tensor, index: torch.Tensor, segments: int, how: str) -> torch.Tensor:
        out = torch.zeros(segments, dtype=a.dtype, device=a.device)
        return out.index_add_(0, index, a) if how == "sum" else out.scatter_reduce_(0, index, a, "amax")


FUNCTIONS = TorchFunctions()


def wide_of(tensor: torch.Tensor) -> torch.dtype:
    """The widest float of a tensor's device."""
    return wide_on(tensor.device)


def wide_on(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64


@lru_cache(maxsize=256)
def uploaded(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Constants on the device: copied there once, because a copy waits."""
    return torch.tensor(values, dtype=dtype).to(device)
