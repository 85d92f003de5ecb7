"""The engines that the laws are tried on: one list, which an engine joins as soon as it has all verbs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from effort import LONG
from gradclip.engines import torch as torch_engine
from gradclip.engines.base import Engine
from gradclip.engines.torch import TorchEngine
from gradclip.engines.torch_devices import DevicesEngine
from gradclip.testing import REFERENCE, Bench
from gradclip.torch.clipper import cpu_engine

VERBS = [name for name, value in vars(Engine).items() if callable(value) and not name.startswith("_")]
DTYPES = ("float32", "float16", "bfloat16", "float64")
COMPILED_DTYPES = DTYPES if LONG else ("float32", "bfloat16")
"""Those in which JAX meets each rule, since it compiles programs for each; its norms are measured in all of them."""
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


def bench_of(engine: Engine) -> Bench:
    if engine.waits:
        return Bench(engine, make, read, unread=unread)
    return Bench(engine, make, read, stamp=lambda tensor: tensor._version)


def on_two_devices(engine: TorchEngine) -> Engine:
    """The engine of several devices, for tensors on the CPU: those of an even number of elements are on another one."""
    return DevicesEngine(engine.name, lambda device: engine, lambda tensor: tensor.numel() % 2)


def has_all_verbs(engine: Engine | None) -> bool:
    return engine is not None and all(hasattr(engine, verb) for verb in VERBS)


INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Whether kernels of Triton run in Python: they alone are tried then, in an environment without other frameworks."""

BENCHES: dict[str, Bench] = {"reference": REFERENCE}
if INTERPRETED:
    import triton_bench

    BENCHES["triton"] = triton_bench.of(make, read, unread)
else:
    import jax_bench
    import paddle_bench
    from gradclip.paddle.clipper import cpu_engine as paddle_cpu_engine

    BENCHES["torch"] = bench_of(torch_engine.CPU)
    BENCHES["torch on a device"] = bench_of(torch_engine.DEVICE)
    BENCHES["torch on devices"] = bench_of(on_two_devices(torch_engine.DEVICE))
    if has_all_verbs(cpu_engine()):
        BENCHES["cpu"] = bench_of(cpu_engine())
        BENCHES["cpu, of Paddle"] = paddle_bench.on_cpu(paddle_cpu_engine())
    BENCHES["paddle on a device"] = paddle_bench.ON_A_DEVICE
    BENCHES["jax"] = jax_bench.BENCH


def given_to(engine: str, arrays: list[np.ndarray]) -> list[np.ndarray]:
    """A list of gradients as the engine of this name meets it."""
    return jax_bench.few_shapes(arrays) if engine == "jax" else arrays
