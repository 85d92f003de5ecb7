"""Paddle's page: how to run each input with Paddle and with `gradclip.paddle`, which is right, and why."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import paddle

import gradclip.paddle
from observed import Input, Module, Page, Values, observed, off

INF, NAN = float("inf"), float("nan")
PADDLE = SimpleNamespace(
    ClipGradByValue=paddle.nn.ClipGradByValue,
    ClipGradByNorm=paddle.nn.ClipGradByNorm,
    ClipGradByGlobalNorm=paddle.nn.ClipGradByGlobalNorm,
    clip_grad_norm_=paddle.nn.utils.clip_grad_norm_,
    clip_grad_value_=paddle.nn.utils.clip_grad_value_,
)
BY_VALUE, BY_NORM, BY_GLOBAL_NORM = "ClipGradByValue", "ClipGradByNorm", "ClipGradByGlobalNorm"


def pairs_with(*values: Any, dtype: str = "float32") -> list[tuple[Any, Any]]:
    """A parameter and its gradient for each list of numbers."""
    gradients = [paddle.to_tensor(one, dtype=dtype) for one in values]
    parameters = [paddle.create_parameter(g.shape, "float32") for g in gradients]
    for parameter, name in zip(parameters, "abc", strict=False):
        parameter.name = name
    return list(zip(parameters, gradients, strict=True))


def clip(name: str, *values: Any, limit: Any = 1.0, dtype: str = "float32", **options: Any) -> Callable[[Module], str]:
    """The clip with this name on pairs with these gradients, as an optimizer calls it."""
    return clip_of(name, lambda: pairs_with(*values, dtype=dtype), limit, **options)


def clip_of(name: str, make: Callable[[], Any], limit: Any = 1.0, **options: Any) -> Callable[[Module], str]:
    """The clip with this name on the pairs that `make` makes."""

    def run(module: Module) -> str:
        held = [make()]

        def call() -> None:
            held[0] = getattr(module, name)(limit, **options)(held[0])

        return observed(call, lambda: [_numpy(gradient) for _, gradient in held[0]])

    return run


def norm(*values: Any, limit: Any = 1.0, **options: Any) -> Callable[[Module], str]:
    """`clip_grad_norm_` on a list of parameters with these gradients."""
    return norm_of(list, *values, limit=limit, **options)


def norm_of(given: Callable[[Any], Any], *values: Any, limit: Any = 1.0, **options: Any) -> Callable[[Module], str]:
    """`clip_grad_norm_` on what `given` makes of the parameters."""

    def run(module: Module) -> str:
        parameters = with_gradients(*values)
        return observed(
            lambda: module.clip_grad_norm_(given(parameters), limit, **options),
            lambda: [_numpy(p.grad) for p in parameters],
        )

    return run


def with_gradients(*values: Any) -> list[Any]:
    """Parameters that have these gradients."""
    pairs = pairs_with(*values)
    for parameter, gradient in pairs:
        parameter.grad = gradient
    return [parameter for parameter, _ in pairs]


def _numpy(gradient: Any) -> Values:
    if gradient.is_selected_rows():
        dense = paddle.nn.clip.get_tensor_from_selected_rows(paddle.nn.clip.merge_selected_rows(gradient))
        return _numpy(dense)
    wide = gradient.cast("complex128" if "complex" in str(gradient.dtype) else "float64")
    return np.array(wide.numpy())


def _many(module: Module) -> str:
    (parameter,) = with_gradients(np.random.default_rng(0).standard_normal(50_000_000, dtype=np.float32))
    truth = np.sqrt(np.sum(np.square(_numpy(parameter.grad))))
    returned = float(module.clip_grad_norm_([parameter], 1.0))
    left = np.sqrt(np.sum(np.square(_numpy(parameter.grad))))
    return f"norm {off(returned, truth)}; norm after clipping {off(left, 1.0)}"


def _two_groups(module: Module) -> str:
    """An update by SGD(1.0) of two parameters in two groups, with gradients 3 and 4."""
    first, second = with_gradients([3.0], [4.0])
    before = [_numpy(first), _numpy(second)]
    groups = [{"params": [first]}, {"params": [second]}]
    paddle.optimizer.SGD(1.0, parameters=groups, grad_clip=module.ClipGradByGlobalNorm(1.0)).step()
    updates = [float((old - _numpy(new))[0]) for old, new in zip(before, (first, second), strict=True)]
    return f"updates {', '.join(f'[{update:.3g}]' for update in updates)}"


def _sparse() -> list[tuple[Any, Any]]:
    """The gradient of an embedding whose row 1 is looked up twice: 3 + 3 and 4 + 4."""
    table = paddle.nn.Embedding(3, 2, sparse=True)
    (table(paddle.to_tensor([1, 1])) * paddle.to_tensor([3.0, 4.0])).sum().backward()
    return [(table.weight, table.weight.grad)]


def _same_twice() -> list[tuple[Any, Any]]:
    return pairs_with([3.0, 4.0]) * 2


def in_graph(name: str, legacy: bool = False, **options: Any) -> Callable[[Module], str]:
    """An update by SGD(1.0) of one parameter with gradient [3, 4], in a static graph."""

    def run(module: Module) -> str:
        found: list[str] = []
        said = observed(lambda: found.append(_update_in_graph(module, name, legacy, options)), list)
        return found[0] if found else said

    return run


def _update_in_graph(module: Module, name: str, legacy: bool, options: dict[str, Any]) -> str:
    guard: AbstractContextManager[Any] = paddle.pir_utils.OldIrGuard() if legacy else nullcontext()
    paddle.enable_static()
    warnings.filterwarnings("ignore", "Tensor do not have 'place' interface")  # Paddle's, of its own backward pass
    try:
        with guard, paddle.static.scope_guard(paddle.static.Scope()):
            main, startup = paddle.static.Program(), paddle.static.Program()
            with paddle.static.program_guard(main, startup):
                x = paddle.static.data("x", [2], "float32")
                w = paddle.static.create_parameter(
                    [2], "float32", default_initializer=paddle.nn.initializer.Constant(0.0)
                )
                clip = getattr(module, name)(1.0, **options)
                paddle.optimizer.SGD(1.0, grad_clip=clip).minimize(paddle.mean(w * x) * 2.0)
            executor = paddle.static.Executor(paddle.CPUPlace())
            executor.run(startup)
            executor.run(main, feed={"x": np.float32([3.0, 4.0])})
            (after,) = executor.run(main, feed={"x": np.float32([0.0, 0.0])}, fetch_list=[w])
        return f"update [{', '.join(f'{-number:.3g}' for number in after.tolist())}]"
    finally:
        paddle.disable_static()


INPUTS = [
    Input("`[3]` and `[4]` in two parameter groups, global norm", _two_groups, "gradclip: one norm for all, of 1"),
    Input("`[3, 4]`, by value, static graph", in_graph(BY_VALUE), "gradclip: it is the default static mode"),
    Input("`[3, 4]`, by norm, static graph", in_graph(BY_NORM), "both"),
    Input("`[3, 4]`, global norm, static graph", in_graph(BY_GLOBAL_NORM), "both"),
    Input(
        "`[3, 4]`, global norm, `auto_skip_clip=True`, static graph",
        in_graph(BY_GLOBAL_NORM, auto_skip_clip=True),
        "gradclip: a documented argument",
    ),
    Input("`[3, 4]`, by value, legacy static graph", in_graph(BY_VALUE, legacy=True), "both"),
    Input("`[3, 4]`, by norm, legacy static graph", in_graph(BY_NORM, legacy=True), "both"),
    Input(
        "`[3, 4]`, global norm, legacy static graph", in_graph(BY_GLOBAL_NORM, legacy=True), "gradclip: the mode exists"
    ),
    Input("`[1e25, 1e25]`, global norm", clip(BY_GLOBAL_NORM, [1e25] * 2), "gradclip: finite gradients"),
    Input("`[1e25, 1e25]`, by norm", clip(BY_NORM, [1e25] * 2), "gradclip: finite gradients"),
    Input("`[3, 4]`, global norm, limit inf", clip(BY_GLOBAL_NORM, [3.0, 4.0], limit=INF), "gradclip: only measure"),
    Input("`[0, 0]`, global norm, limit 0", clip(BY_GLOBAL_NORM, [0.0, 0.0], limit=0.0), "gradclip: no limit is 0"),
    Input("`[3, 4]`, global norm, limit -1", clip(BY_GLOBAL_NORM, [3.0, 4.0], limit=-1.0), "gradclip: no ascent"),
    Input("`[3, 4]`, by norm, limit -1", clip(BY_NORM, [3.0, 4.0], limit=-1.0), "both refuse"),
    Input("`[NaN, 2]` and `[3]`, global norm", clip(BY_GLOBAL_NORM, [NAN, 2.0], [3.0]), "gradclip: no other suffers"),
    Input("`[inf, 2]` and `[3]`, global norm", clip(BY_GLOBAL_NORM, [INF, 2.0], [3.0]), "gradclip: no other suffers"),
    Input("fp16 `[3, 4]` on the CPU, global norm", clip(BY_GLOBAL_NORM, [3.0, 4.0], dtype="float16"), "gradclip"),
    Input("bf16 `[3, 4]` on the CPU, by norm", clip(BY_NORM, [3.0, 4.0], dtype="bfloat16"), "gradclip"),
    Input("fp64 `[3, 4]`, by norm", clip(BY_NORM, [3.0, 4.0], dtype="float64"), "gradclip: Paddle has the tensor"),
    Input("fp64 `[3, 4]`, global norm", clip(BY_GLOBAL_NORM, [3.0, 4.0], dtype="float64"), "both"),
    Input("0-d `5`, global norm", clip(BY_GLOBAL_NORM, 5.0), "both"),
    Input(
        "the pair `[3, 4]` given twice, global norm",
        clip_of(BY_GLOBAL_NORM, _same_twice),
        "gradclip: one gradient",
    ),
    Input("sparse rows, global norm", clip_of(BY_GLOBAL_NORM, _sparse), "both"),
    Input("`[NaN, inf, 0.5]`, by value", clip(BY_VALUE, [NAN, INF, 0.5]), "both: NaN has no bound"),
    Input("`[3, 4]`, `clip_grad_norm_`", norm([3.0, 4.0]), "gradclip: 1, and not 0.9999998"),
    Input(
        "`[3, 4]`, `clip_grad_norm_` of a generator",
        norm_of(lambda parameters: (p for p in parameters), [3.0, 4.0]),
        "gradclip: a norm that is returned was meant to be clipped",
    ),
    Input("5e7 standard normal elements, `clip_grad_norm_`", _many, "gradclip: fp32 sums lose what fp64 sums keep"),
    Input("`[3, 4]`, `clip_grad_norm_`, limit -1", norm([3.0, 4.0], limit=-1.0), "gradclip: no ascent"),
    Input("`[1e25, 1e25]`, `clip_grad_norm_`", norm([1e25] * 2), "gradclip: finite gradients"),
    Input("`[3, 4]`, `clip_grad_norm_`, `norm_type=3`", norm([3.0, 4.0], norm_type=3.0), "gradclip: the norm exists"),
]

PAGE = Page(
    framework="Paddle",
    version=".".join(paddle.__version__.split(".")[:2]),
    file="where-paddle-is-wrong.md",
    introduction=f"The clips and functions of PaddlePaddle {paddle.__version__} and those of `gradclip.paddle`, on the "
    "same inputs on a CPU, in dynamic mode where no other is said. The limit is 1 where none is said. Sparse rows by "
    "value are left out: Paddle's own clip at times ends the process there.",
    inputs=INPUTS,
    theirs=PADDLE,
    ours=gradclip.paddle,
)
