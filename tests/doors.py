"""The doors of PyTorch as tests walk through them: `Clipper.clip_` and the drop-ins, on a chosen engine."""

from __future__ import annotations

from contextlib import contextmanager
from unittest import mock

import numpy as np
import torch

from benches import has_all_verbs
from gradclip import ClipGradByGlobalNorm
from gradclip.torch import Clipper, functional
from gradclip.torch.clipper import cpu_engine


class Door:
    """The explicit clipper and the drop-ins; `engine` "torch" is what they use where numba is not installed."""

    def __init__(self, engine: str) -> None:
        self.engine = engine

    def __repr__(self) -> str:
        return self.engine

    @contextmanager
    def chosen(self):
        if self.engine == "cpu":
            yield
            return
        with mock.patch("gradclip.torch.clipper.cpu_engine", return_value=None):
            yield

    def clip_(self, parameters, rule=None, **options):
        """Clip by `rule`, a global norm of 1 if none is given."""
        return Clipper(rule or ClipGradByGlobalNorm(1.0), engine=self.engine, **options).clip_(parameters)

    def __getattr__(self, name):
        def call(*args, **kwargs):
            with self.chosen():
                return getattr(functional, name)(*args, **kwargs)

        if name not in ("clip_grad_norm_", "clip_grad_value_", "get_total_norm", "clip_grads_with_norm_"):
            raise AttributeError(name)
        return call


DOORS = [Door("torch")] + ([Door("cpu")] if has_all_verbs(cpu_engine()) else [])


def parameter(*values, dtype=torch.float32, grad=None):
    """A parameter whose gradient holds `values`, or is `grad`."""
    gradient = torch.tensor(values, dtype=dtype) if grad is None else grad
    p = torch.nn.Parameter(torch.zeros(gradient.shape, dtype=gradient.dtype))
    p.grad = gradient
    return p


def exact(*parameters):
    """The gradients in fp64 (complex128), in one vector."""
    wide = [p.grad.to_dense().detach().resolve_conj().cpu() for p in parameters]
    wide = [g.to(torch.complex128 if g.is_complex() else torch.float64).numpy().reshape(-1) for g in wide]
    return np.concatenate(wide) if wide else np.zeros(0)


def true_norm(values, p=2.0):
    """The p-norm in fp64, without overflow or underflow on the way."""
    magnitude = np.abs(values)
    peak = magnitude.max(initial=0.0)
    if not 0 < peak < np.inf or np.isinf(p):
        return float(peak)
    return float(peak * np.sum((magnitude / peak) ** p) ** (1 / p))


def written(call, *tensors):
    """Whether `call` wrote any of the tensors, by the counter that autograd keeps."""
    before = [tensor._version for tensor in tensors]
    call()
    return [tensor._version for tensor in tensors] != before
