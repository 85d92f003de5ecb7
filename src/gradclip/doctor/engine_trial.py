"""Each engine of a framework clips one gradient: `python -m gradclip.doctor.engine_trial torch`, a line of JSON each.

This runs in a process of its own, one for each framework: some cannot be in one process, and one that crashes as it is
imported must not take the doctor with it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

BELOW = 1e-6
"""How far from 1 the norm of the clipped gradient (3, 4) may be, after rounding in fp32."""


class Tried(NamedTuple):
    """What came of an engine: its name, whether it clips, and what is to be said of it."""

    engine: str
    works: bool
    said: str


def in_torch() -> Iterator[Tried]:
    """The engines of PyTorch; Triton's where there is a CUDA device."""
    import torch

    from gradclip.rules.recipes import ClipGradByGlobalNorm
    from gradclip.torch import Clipper

    def norm_by(engine: str, device: str) -> float:
        weight = torch.nn.Parameter(torch.zeros(2, device=device))
        weight.grad = torch.tensor([3.0, 4.0], device=device)
        Clipper(ClipGradByGlobalNorm(1.0), engine=engine).clip_([weight])
        return float(torch.linalg.vector_norm(weight.grad))

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    yield tried("cpu", lambda: norm_by("cpu", "cpu"), f"{torch.get_num_threads()} threads")
    yield tried("torch", lambda: norm_by("torch", "cpu"), f"CPU and {gpu}" if gpu else "CPU; there is no CUDA device")
    if gpu:
        yield tried("triton", lambda: norm_by("triton", "cuda"), gpu)
    else:
        yield Tried("triton", False, "it is for a CUDA device, and PyTorch sees none")


def in_paddle() -> Iterator[Tried]:
    """The engines of Paddle."""
    import paddle

    from gradclip.paddle import Clipper
    from gradclip.rules.recipes import ClipGradByGlobalNorm

    def norm_by(engine: str) -> float:
        weight = paddle.create_parameter([2], "float32")
        weight.grad = paddle.to_tensor([3.0, 4.0])
        Clipper(ClipGradByGlobalNorm(1.0), engine=engine).clip_([weight])
        return float(paddle.linalg.norm(weight.grad))

    yield tried("cpu", lambda: norm_by("cpu"), "")
    yield tried("paddle", lambda: norm_by("paddle"), str(paddle.get_device()))


def in_jax() -> Iterator[Tried]:
    """The engine of JAX."""
    import jax
    import optax

    import gradclip.optax
    from gradclip.rules.recipes import ClipGradByGlobalNorm

    def norm() -> float:
        transform = gradclip.optax.clip(ClipGradByGlobalNorm(1.0))
        gradient = jax.numpy.array([3.0, 4.0])
        clipped, _ = transform.update(gradient, transform.init(gradient))
        return float(optax.tree.norm(clipped))

    yield tried("jax", norm, ", ".join(map(str, jax.devices())))


def tried(engine: str, norm: Callable[[], float], said: str) -> Tried:
    """What comes of clipping the gradient (3, 4) to the norm 1."""
    try:
        found = norm()
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        return Tried(engine, False, f"{type(error).__name__}: {' '.join(str(error).split())}")
    if not abs(found - 1.0) <= BELOW:
        return Tried(engine, False, f"it clips the norm 5 to {found:g}, and not to 1")
    return Tried(engine, True, said)


TRIALS = {"torch": in_torch, "paddle": in_paddle, "jax": in_jax}

if __name__ == "__main__":
    for outcome in TRIALS[sys.argv[1]]():
        print(json.dumps(outcome._asdict()), flush=True)
