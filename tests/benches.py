"""The engines that the laws are tried on: one list, which an engine joins as soon as it has all verbs."""

from __future__ import annotations

import os

import numpy as np

from effort import LONG
from few import few_shapes
from gradclip.engines import torch as torch_engine
from gradclip.engines.base import Engine
from gradclip.engines.torch import TorchEngine
from gradclip.engines.torch_devices import DevicesEngine
from gradclip.testing import REFERENCE, Bench
from gradclip.torch.clipper import cpu_engine
from torch_tensors import make, read, unread

VERBS = [name for name, value in vars(Engine).items() if callable(value) and not name.startswith("_")]
DTYPES = ("float32", "float16", "bfloat16", "float64")
COMPILED_DTYPES = DTYPES if LONG else ("float32", "bfloat16")
"""Those in which JAX meets each rule, since it compiles programs for each; its norms are measured in all of them."""


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
    return few_shapes(arrays) if engine == "jax" else arrays
