"""PyTorch's page: how to run each input with `torch.nn.utils` and `gradclip.torch`, which is right, and why."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch

import gradclip.torch
from observed import Input, Module, Page, Values, observed, off

INF, NAN = float("inf"), float("nan")


def watched(call: Callable[[], Any], parameters: list[torch.nn.Parameter]) -> str:
    """What `call` did to the gradients of `parameters`."""

    def read() -> list[Values]:
        gradients = [p.grad.detach() for p in parameters if p.grad is not None]
        distinct = {g.data_ptr() if not g.is_sparse else id(g): g for g in gradients}
        return [_numpy(gradient) for gradient in distinct.values()]

    return observed(call, read)


def _numpy(gradient: torch.Tensor) -> Values:
    found: Values = gradient.to_dense().to(torch.complex128 if gradient.is_complex() else torch.float64).numpy()
    return np.array(found)


def with_gradient(gradient: torch.Tensor) -> torch.nn.Parameter:
    """A parameter that has this gradient."""
    parameter = torch.nn.Parameter(torch.zeros(gradient.shape, dtype=gradient.dtype))
    parameter.grad = gradient
    return parameter


def with_gradients(*values: list[float], dtype: torch.dtype = torch.float32) -> list[torch.nn.Parameter]:
    """A parameter for each list of numbers."""
    return [with_gradient(torch.tensor(one, dtype=dtype)) for one in values]


def norm(*values: Any, limit: Any = 1.0, dtype: torch.dtype = torch.float32, **options: Any) -> Callable[[Module], str]:
    """`clip_grad_norm_` on gradients with these values."""

    def run(module: Module) -> str:
        parameters = with_gradients(*values, dtype=dtype)
        return watched(lambda: module.clip_grad_norm_(parameters, limit, **options), parameters)

    return run


def value(*values: Any, limit: Any = 1.0, dtype: torch.dtype = torch.float32) -> Callable[[Module], str]:
    """`clip_grad_value_` on gradients with these values."""

    def run(module: Module) -> str:
        parameters = with_gradients(*values, dtype=dtype)
        return watched(lambda: module.clip_grad_value_(parameters, limit), parameters)

    return run


def norm_of(make: Callable[[], Any], **options: Any) -> Callable[[Module], str]:
    """`clip_grad_norm_` on what `make` returns."""

    def run(module: Module) -> str:
        given = make()
        shown = given if isinstance(given, list) else []
        return watched(lambda: module.clip_grad_norm_(given, 1.0, **options), shown)

    return run


def _many(module: Module) -> str:
    """5e7 elements, too many to show."""
    parameter = with_gradient(_normal().clone())
    truth = float(torch.linalg.vector_norm(_normal(), dtype=torch.float64))
    returned = float(module.clip_grad_norm_([parameter], 1.0))
    left = float(torch.linalg.vector_norm(parameter.grad, dtype=torch.float64))
    return f"norm {off(returned, truth)}; norm after clipping {off(left, 1.0)}"


@functools.cache
def _normal() -> torch.Tensor:
    return torch.randn(50_000_000, generator=torch.Generator().manual_seed(0))


def _twice() -> list[torch.nn.Parameter]:
    return with_gradients([3.0, 4.0]) * 2


def _shared() -> list[torch.nn.Parameter]:
    one, other = with_gradients([3.0, 4.0], [0.0, 0.0])
    other.grad = one.grad
    return [one, other]


def _sparse() -> list[torch.nn.Parameter]:
    parameter = torch.nn.Parameter(torch.zeros(3))
    index, values = torch.tensor([[0, 2, 2]]), torch.tensor([3.0, 1.0, 3.0])
    parameter.grad = torch.sparse_coo_tensor(index, values, (3,), check_invariants=True)
    return [parameter]


def _transposed() -> list[torch.nn.Parameter]:
    return [with_gradient(torch.tensor([[3.0, 0.0], [0.0, 4.0]]).t())]


def _expanded() -> list[torch.nn.Parameter]:
    return [with_gradient(torch.tensor([3.0]).expand(4))]


def _without_gradient(module: Module, function: str) -> str:
    parameter = torch.nn.Parameter(torch.zeros(2))
    return watched(lambda: getattr(module, function)([parameter], 1.0), [parameter])


def _exhausted(make: Callable[[list[torch.nn.Parameter]], Iterable[torch.nn.Parameter]]) -> Callable[[Module], str]:
    def run(module: Module) -> str:
        parameters = with_gradients([3.0, 4.0])
        given = make(parameters)
        list(given)
        return watched(lambda: module.clip_grad_norm_(given, 1.0), parameters)

    return run


def _module(module: Module) -> str:
    layer = torch.nn.Linear(2, 1, bias=False)
    layer.weight.grad = torch.tensor([[3.0, 4.0]])
    return watched(lambda: module.clip_grad_norm_(layer, 1.0), [layer.weight])


HALF, BRAIN, DOUBLE, COMPLEX = torch.float16, torch.bfloat16, torch.float64, torch.complex64

INPUTS = [
    Input(
        "fp16 `[6e4, 6e4, 6e4, 6e4]`",
        norm([6e4] * 4, dtype=HALF),
        "gradclip: the norm 1.2e5 exists, only fp16 lacks it",
    ),
    Input(
        "fp16 `[6e4, 6e4]` and fp32 `[4]`",
        norm_of(lambda: with_gradients([6e4] * 2, dtype=HALF) + with_gradients([4.0])),
        "gradclip: one fp16 tensor must not erase the others",
    ),
    Input(
        "fp16 `[3e3, 4e3]`, limit 1e-4",
        norm([3e3, 4e3], limit=1e-4, dtype=HALF),
        "gradclip: the products fit in fp16, the coefficient does not",
    ),
    Input("fp32 `[1e25, 1e25]`", norm([1e25] * 2), "gradclip: finite gradients, and only their squares leave fp32"),
    Input(
        "bf16 `[1e25, 1e25]`",
        norm([1e25] * 2, dtype=BRAIN),
        "gradclip: finite gradients, and only their squares leave bf16",
    ),
    Input(
        "fp64 `[2e200, 2e200]`",
        norm([2e200] * 2, dtype=DOUBLE),
        "gradclip: finite gradients, and only their squares leave fp64",
    ),
    Input(
        "fp32 `[1e25, 1e25]`, `error_if_nonfinite=True`",
        norm([1e25] * 2, error_if_nonfinite=True),
        "gradclip: every gradient and their norm are finite",
    ),
    Input(
        "fp32 `[3e-25, 4e-25]`, limit 1e-30",
        norm([3e-25, 4e-25], limit=1e-30),
        "gradclip: the norm is not 0, only its square",
    ),
    Input("fp32, 5e7 standard normal elements", _many, "gradclip: fp32 sums lose what fp64 sums keep"),
    Input(
        "`[1e25, 1e25]`, limit inf: only measure",
        norm([1e25] * 2, limit=INF),
        "gradclip: measuring must not write, least of all NaN",
    ),
    Input(
        "`[inf, 2]`, limit inf: only measure",
        norm([INF, 2.0], limit=INF),
        "gradclip: measuring must not write, least of all NaN",
    ),
    Input("`[3, 4]`, limit -1", norm([3.0, 4.0], limit=-1.0), "gradclip: a flipped sign is gradient ascent"),
    Input("`[3, 4]`, limit 0", norm([3.0, 4.0], limit=0.0), "gradclip: to drop gradients there is `zero_grad()`"),
    Input("`[3, 4]`, limit NaN", norm([3.0, 4.0], limit=NAN), "gradclip: a limit that is no number is a bug"),
    Input("`[9e-7]`, limit 1e-6", norm([9e-7], limit=1e-6), "gradclip: the norm is below the limit"),
    Input("`[3, 4]`, limit 5", norm([3.0, 4.0], limit=5.0), "gradclip: the norm is not above the limit"),
    Input("`[3, 4]`, the parameter given twice", norm_of(_twice), "gradclip: it is one gradient, to be scaled once"),
    Input("`[3, 4]`, shared by two parameters", norm_of(_shared), "gradclip: it is one gradient, to be scaled once"),
    Input("`[NaN, 2]` and `[3]`", norm([NAN, 2.0], [3.0]), "gradclip: the norm says it; no other element suffers"),
    Input("`[inf, 2]` and `[3]`", norm([INF, 2.0], [3.0]), "gradclip: the norm says it; no other element suffers"),
    Input(
        "`[inf, 2]`, `error_if_nonfinite=True`",
        norm([INF, 2.0], error_if_nonfinite=True),
        "both: the caller asked for it",
    ),
    Input(
        "`[3, 4]`, `norm_type=0`", norm([3.0, 4.0], norm_type=0), "gradclip: 1 counts tensors, which nobody asked for"
    ),
    Input("`[3, 0]`, `norm_type=-1`", norm([3.0, 0.0], norm_type=-1), "gradclip: with any zero the norm is 0"),
    Input("sparse, 3 and, in two parts, 4", norm_of(_sparse), "gradclip: the norm of its elements exists"),
    Input("complex `[3+4j]` and `[12]`, by norm", norm([3 + 4j], [12 + 0j], dtype=COMPLEX), "both"),
    Input("complex `[3+4j]`, by value", value([3 + 4j], dtype=COMPLEX), "both: complex numbers have no order"),
    Input("0-d `5`", norm(5.0), "both"),
    Input(
        "`[]` and `[3, 4]`, `norm_type=inf`",
        norm([], [3.0, 4.0], norm_type=INF),
        "gradclip: an empty tensor adds nothing",
    ),
    Input("`[3]` expanded to 4 elements", norm_of(_expanded), "gradclip: one number in memory, four in the norm"),
    Input("transposed `[[3, 0], [0, 4]]`", norm_of(_transposed), "both"),
    Input("a generator that was read before", _exhausted(lambda found: (p for p in found)), "both: it is said"),
    Input(
        "a `map` that was read before",
        _exhausted(lambda found: map(torch.Tensor.detach, found)),
        "gradclip: an exhausted iterator clips nothing, so say it",
    ),
    Input(
        "no gradients, by norm",
        lambda module: _without_gradient(module, "clip_grad_norm_"),
        "gradclip: clipping before `backward()` is a mistake, so say it",
    ),
    Input(
        "no gradients, by value",
        lambda module: _without_gradient(module, "clip_grad_value_"),
        "gradclip: nothing to do is no internal error",
    ),
    Input("a module", _module, "gradclip: what is meant is clear"),
    Input("`[0.8, 89]`, by value -1", value([0.8, 89.0], limit=-1.0), "gradclip: no element may become the same -1"),
    Input("`[NaN, inf, 0.5]`, by value", value([NAN, INF, 0.5]), "both: NaN has no bound"),
    Input(
        "fp16 `[0.8, 89]`, by value 1e6",
        value([0.8, 89.0], limit=1e6, dtype=HALF),
        "gradclip: every element is inside the bound",
    ),
]

PAGE = Page(
    framework="PyTorch",
    version=".".join(torch.__version__.split(".")[:2]),
    file="where-pytorch-is-wrong.md",
    introduction=f"The functions of `torch.nn.utils` {torch.__version__.partition('+')[0]} and those of "
    "`gradclip.torch`, on the same inputs on a CPU. The limit is 1 where none is said; the norm is the one that is "
    "returned, measured before clipping.",
    inputs=INPUTS,
    theirs=torch.nn.utils,
    ours=gradclip.torch,
)
