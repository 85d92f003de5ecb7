"""How tests make PyTorch tensors of numbers and read them, and refuse that anybody else reads one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

READS = ("_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "masked_select", "_unique2", "allclose")
METHODS = ("tolist", "numpy", "item", "__bool__", "__float__", "__int__", "__index__", "__array__", "cpu")


class HostRead(AssertionError):
    """A number of a tensor was read where nothing may wait for the device."""


class NoReads(TorchDispatchMode):
    """Refuses the operations whose result depends on the numbers of a tensor and lies on the host."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ in READS:
            raise HostRead(f"{func} waits for the device")
        indices = args[1] if func.overloadpacket.__name__ in ("index", "index_put_") else ()
        if any(index is not None and index.dtype is torch.bool for index in indices):
            raise HostRead(f"{func} with a mask waits for the device")
        return func(*args, **(kwargs or {}))


class Counting(TorchDispatchMode):
    """Notes the operations of PyTorch that are dispatched: on a device each is a launch, or several."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


@contextmanager
def unread() -> Iterator[None]:
    """A context in which reading a number of a tensor raises, through an operation or past the dispatcher."""

    def refuse(self, *args, **kwargs):
        raise HostRead("a number of a tensor was read on the host")

    before = {name: torch.Tensor.__dict__.get(name) for name in METHODS}
    for name in METHODS:
        setattr(torch.Tensor, name, refuse)
    try:
        with NoReads():
            yield
    finally:
        for name, method in before.items():
            if method is None:
                delattr(torch.Tensor, name)
            else:
                setattr(torch.Tensor, name, method)


def make(values: np.ndarray, dtype: str) -> torch.Tensor:
    return torch.tensor(values, dtype=getattr(torch, dtype))


def read(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().cpu().to(torch.complex128 if tensor.is_complex() else torch.float64).numpy().copy()
