"""Drop-ins for the clipping functions of `timm.utils`: same names, arguments and meaning; timm itself is not needed."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from gradclip.errors import needing
from gradclip.rules.arguments import checked_word, plain_number
from gradclip.rules.combine import WeightRatio
from gradclip.rules.norm import norm_of_order_or_word
from gradclip.rules.rule import Rule
from gradclip.rules.scope import Row

with needing("gradclip.timm", "torch", "torch"):
    from gradclip.torch.clipper import Clipper
    from gradclip.torch.functional import KEPT, TensorOrTensors, clip_grad_norm_, clip_grad_value_

__all__ = ["adaptive_clip_grad", "dispatch_clip_grad"]

MODES = ("norm", "value", "agc")


def dispatch_clip_grad(parameters: TensorOrTensors, value: float, mode: str = "norm", norm_type: float = 2.0) -> None:
    """Clip the gradients of `parameters` in place: by their norm, by value, or adaptively, by that of the weights.

    `value` is the largest norm with `mode="norm"`, the largest element with "value", and with "agc" the largest share
    of a row's weights that its gradient may have. A script of timm takes it for its own with one line,
    `timm.utils.cuda.dispatch_clip_grad = timm.utils.dispatch_clip_grad = gradclip.timm.dispatch_clip_grad`.
    Raises `ValueError` for another mode and for a value that is not above 0.
    Source: `timm.utils.dispatch_clip_grad`. Differs from it: norms are right for float16 and bfloat16, no finite
    gradient becomes 0 or NaN, and nothing at or below its limit is touched.

    >>> weight = torch.nn.Parameter(torch.ones(2, 2))
    >>> weight.grad = torch.tensor([[3.0, 4.0], [0.0, 0.001]])
    >>> dispatch_clip_grad([weight], 0.1, mode="agc")
    >>> weight.grad
    tensor([[0.0849, 0.1131],
            [0.0000, 0.0010]])
    """
    checked_word(mode, "mode", MODES)
    if mode == "norm":
        clip_grad_norm_(parameters, value, norm_type)
    elif mode == "value":
        clip_grad_value_(parameters, value)
    else:
        adaptive_clip_grad(parameters, value, norm_type=norm_type)


def adaptive_clip_grad(
    parameters: TensorOrTensors, clip_factor: float = 0.01, eps: float = 1e-3, norm_type: float = 2.0
) -> None:
    """Rescale the gradient of each output unit to `clip_factor` of the norm of its weights, of `eps` at least.

    Formula: `g_i * min(1, clip_factor * max(||w_i||, eps) / ||g_i||)` for each index i of a weight's first axis; a
    tensor of fewer than two axes is one unit. Arguments as `timm.utils.agc.adaptive_clip_grad`; it never divides by
    1e-6, and a unit with a non-finite gradient is left alone, with a warning that names it, once.
    Source: A. Brock, S. De, S. L. Smith, K. Simonyan 2021, arXiv:2102.06171.

    >>> weight = torch.nn.Parameter(torch.ones(2))
    >>> weight.grad = torch.tensor([3.0, 4.0])
    >>> adaptive_clip_grad(weight)
    >>> weight.grad
    tensor([0.0085, 0.0113])
    """
    arguments = (plain_number(clip_factor), plain_number(eps), plain_number(norm_type))
    keeps = all(isinstance(argument, KEPT) for argument in arguments)
    clipper = _clipper(*arguments) if keeps else _clipper.__wrapped__(*arguments)
    clipper.clip_(parameters)


@lru_cache(maxsize=16, typed=True)
def _clipper(clip_factor: Any, eps: Any, norm_type: Any) -> Clipper:
    """The clipper of these arguments, which remembers no gradient: it is kept for its layout."""
    return Clipper(Rule(Row(), norm_of_order_or_word(norm_type), WeightRatio(clip_factor, eps)))
