"""The same gradients in PaddlePaddle and JAX: gradclip's doors there beside the clips of Paddle and optax."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
import paddle
import torch

import gradclip
import gradclip.optax
import gradclip.paddle
from benchmarks.limits import Limit
from benchmarks.names import READ, READ_WRITE
from benchmarks.sampling import Candidate
from benchmarks.workloads import Workload

OUR_CLIP, PADDLE_CLIP = "gradclip.paddle", "paddle.nn"
OUR_FUNCTION, PADDLE_FUNCTION = "gradclip.paddle.clip_grad_norm_", "paddle.nn.utils.clip_grad_norm_"
OUR_TRANSFORMATION, OPTAX = "gradclip.optax", "optax"


def in_paddle(name: str, limit: float, clips: bool, workload: Workload) -> list[Candidate]:
    """The clip called `name`, as an optimizer calls it, on tensors that lie in the memory of the workload."""
    pairs = list(zip(_names(len(workload.gradients)), map(paddle.from_dlpack, workload.gradients), strict=True))
    calls: dict[str, Callable[[], object]] = {
        OUR_CLIP: partial(getattr(gradclip.paddle, name)(limit), pairs),
        PADDLE_CLIP: partial(getattr(paddle.nn, name)(limit), pairs),
    }
    return _with_limit(workload, clips, calls)


def functions_of_paddle(limit: float, workload: Workload) -> list[Candidate]:
    """`clip_grad_norm_` of both, on parameters that have the gradients of the workload."""
    parameters = [paddle.create_parameter(list(g.shape), "float32") for g in workload.gradients]
    for parameter, gradient in zip(parameters, workload.gradients, strict=True):
        parameter.grad = paddle.from_dlpack(gradient)
    calls: dict[str, Callable[[], object]] = {
        OUR_FUNCTION: partial(gradclip.paddle.clip_grad_norm_, parameters, limit),
        PADDLE_FUNCTION: partial(paddle.nn.utils.clip_grad_norm_, parameters, limit),
    }
    return _with_limit(workload, False, calls)


@cache
def _names(count: int) -> list[Any]:
    """Parameters to name gradients by; nothing else of them is looked at."""
    return [paddle.create_parameter([1], "float32") for _ in range(count)]


def in_jax(limit: float, clips: bool, workload: Workload) -> list[Candidate]:
    """Clipping by global norm under `jit`, with the gradients donated, as a training step does."""
    ours, theirs = gradclip.optax.clip(gradclip.ClipGradByGlobalNorm(limit)), optax.clip_by_global_norm(limit)
    both = {OUR_TRANSFORMATION: ours, OPTAX: theirs}
    compiled = [Compiled(transformation, workload).candidate(name) for name, transformation in both.items()]
    return [*_with_limit(workload, clips, {}), *compiled]


class Compiled:
    """A compiled transformation that is given its own result again, unless it is restored before."""

    def __init__(self, transformation: Any, workload: Workload) -> None:
        self._workload = workload
        self._update = jax.jit(transformation.update, donate_argnums=(0, 1))
        self._tree: Any = None
        self._restore()
        self._state = transformation.init(self._tree)

    def candidate(self, name: str) -> Candidate:
        return Candidate(name, self._clip, before=self._restore)

    def _clip(self) -> None:
        self._tree, self._state = jax.block_until_ready(self._update(self._tree, self._state))

    def _restore(self) -> None:
        self._tree = jax.block_until_ready([jnp.array(_jax(values)) for values in self._workload.originals])


def _jax(values: torch.Tensor) -> jax.Array:
    return jnp.from_dlpack(values)


def _with_limit(workload: Workload, clips: bool, calls: dict[str, Callable[[], object]]) -> list[Candidate]:
    limit = Limit(workload.gradients)
    if not clips:
        return [Candidate(READ, limit.read), *(Candidate(name, call) for name, call in calls.items())]
    calls = {READ_WRITE: limit.read_then_write, **calls}
    return [Candidate(name, call, before=workload.restore) for name, call in calls.items()]
