"""Drop-ins for the clipping functions of `paddle.nn.utils`: same names, arguments and results, in dynamic mode.

They differ where Paddle is wrong: a generator is clipped, no finite gradient becomes 0 or NaN, nothing at or below the
limit is touched, norms are right to 1e-6, and a limit that makes no sense is refused.
"""

from __future__ import annotations

import math
from typing import Any

import paddle

from gradclip.engines.paddle_legacy import PaddleTensor
from gradclip.paddle.clipper import Clipper
from gradclip.paddle.parameters import gradient_of, parameters_of
from gradclip.rules.arguments import checked_flag
from gradclip.rules.norm import norm_of_order_or_word
from gradclip.rules.recipes import ClipGradByValue
from gradclip.rules.rule import Rule
from gradclip.rules.scope import Global
from gradclip.rules.threshold import Constant, checked_limit
from gradclip.step.result import Result

WIDE = (paddle.float64, paddle.complex128)
FLOAT32_MAX = float(paddle.finfo(paddle.float32).max)


def clip_grad_norm_(
    parameters: Any, max_norm: float | None, norm_type: float | str = 2.0, error_if_nonfinite: bool = False
) -> PaddleTensor:
    """Rescale the gradients so that their norm taken together is at most `max_norm`; return the norm before.

    Formula: `g * min(1, max_norm / ||all g||_p)`, p = `norm_type` in [0.1, inf] or "inf". `max_norm` has the unit of
    the gradient and is above 0; None or infinity measures only. `parameters` is a tensor, an iterable, a layer or an
    optimizer. The norm is a 0-D tensor of float32, or of float64 for float64 gradients and for norms beyond float32. A
    non-finite gradient is left as it is, and the non-finite norm is returned; with `error_if_nonfinite=True` it raises
    `NonFiniteGradient`, a `RuntimeError`, before anything is written.
    Source: R. Pascanu, T. Mikolov, Y. Bengio 2013, arXiv:1211.5063; arguments as `paddle.nn.utils.clip_grad_norm_`.

    >>> weight = paddle.create_parameter([2], "float32")
    >>> weight.grad = paddle.to_tensor([3.0, 4.0])
    >>> float(clip_grad_norm_([weight], max_norm=1.0))
    5.0
    >>> weight.grad.tolist()
    [0.6000000238418579, 0.800000011920929]
    """
    _refuse_static("clip_grad_norm_")
    norm = norm_of_order_or_word(norm_type)
    raises = checked_flag(error_if_nonfinite, "error_if_nonfinite")
    rule = Rule(Global(), norm, Constant(checked_limit(max_norm, "max_norm")))
    clipper = OneCall(rule, on_nonfinite="raise" if raises else "keep")
    given = parameters_of(parameters)
    wide = any((g := gradient_of(p)) is not None and g.dtype in WIDE for p in given.tensors)
    return _norm(clipper.clip_(given), "float64" if wide else "float32")


def clip_grad_value_(parameters: Any, clip_value: float) -> None:
    """Clip each element of the gradients to [-clip_value, clip_value]; infinities become the bound, NaN stays.

    `parameters` as in `clip_grad_norm_`, `clip_value` is above 0 in the unit of the gradient.

    >>> weight = paddle.create_parameter([2], "float32")
    >>> weight.grad = paddle.to_tensor([0.5, 89.0])
    >>> clip_grad_value_([weight], 1.0)
    >>> weight.grad.tolist()
    [0.5, 1.0]
    """
    _refuse_static("clip_grad_value_")
    OneCall(ClipGradByValue(checked_limit(clip_value, "clip_value"))).clip_(parameters)


class OneCall(Clipper):
    """A clipper for one call, which says nothing of a non-finite gradient: the norm that it returns does."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.answer.warned = True


def _refuse_static(name: str) -> None:
    if not paddle.in_dynamic_mode():
        raise RuntimeError(f"{name} reads gradients, which a static graph has none of: give a clip to the optimizer")


def _norm(result: Result, dtype: str) -> PaddleTensor:
    """The norm as a 0-D tensor, on the device where it was made."""
    if not result.parts:
        return paddle.to_tensor(0.0)
    norm = result.parts[0].plan.decisions[0].norm
    if hasattr(norm, "value"):
        return norm.value.reshape([]).astype(dtype)
    value = result.norm_before
    return paddle.to_tensor(value, dtype="float64" if FLOAT32_MAX < value < math.inf else dtype)
