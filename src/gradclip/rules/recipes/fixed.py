"""Methods whose threshold is a number, or follows the step alone."""

from __future__ import annotations

from typing import Literal

from gradclip.rules.arguments import checked_flag, has_no_axes, plain_number
from gradclip.rules.norm import L2, RMS, Linf, norm_of_order
from gradclip.rules.response import Normalize, Smooth
from gradclip.rules.rule import Rule
from gradclip.rules.scope import Element, Global, Scope, Tensor
from gradclip.rules.threshold import Bounds, Constant, Limit, Threshold, checked_limit, computed

__all__ = ["BlockRMS", "ClipGradByGlobalNorm", "ClipGradByNorm", "ClipGradByValue", "NormalizedGradient", "SmoothClip"]


def ClipGradByValue(max: Limit, min: float | None = None) -> Rule:
    """Clip each element to the interval [min, max].

    Formula: `out = clamp(g, min, max)`; `min=None` means `-max`. Bounds have the unit of the gradient, `min < 0 < max`;
    shape and dtype of the gradient stay. `max` may be a `Schedule`. An infinite element becomes its bound, NaN stays
    NaN and is counted. Changes the direction of the gradient. Raises `ValueError` or `TypeError` for other bounds.
    Source: T. Mikolov 2012, as R. Pascanu, T. Mikolov, Y. Bengio 2013, arXiv:1211.5063, section 3.2, report it.

    >>> ClipGradByValue(1.0)
    each element: a magnitude above 1 is rescaled to it
    """
    if min is None:
        return Rule(Element(), Linf(), _threshold(max, "max"))
    return Rule(Element(), Linf(), Bounds(checked_limit(max, "max"), min))


def ClipGradByNorm(clip_norm: Limit, norm_type: float = 2.0) -> Rule:
    """Rescale each tensor alone to a norm of at most `clip_norm`.

    Formula: `out = g * min(1, clip_norm / ||g||_p)` with p = `norm_type` in [0.1, inf]. `clip_norm` has the unit of the
    gradient, is above 0 (`None` or infinity: measure only) and may be a `Schedule`. Shape, dtype and direction of each
    tensor stay; the direction of all tensors together does not. Raises `ValueError` or `TypeError` for other values.
    Source: R. Pascanu, T. Mikolov, Y. Bengio 2013, arXiv:1211.5063, section 3.2, applied to each tensor.

    >>> ClipGradByNorm(1.0)
    each tensor: an L2 norm above 1 is rescaled to it
    """
    return Rule(Tensor(), norm_of_order(norm_type), _threshold(clip_norm, "clip_norm"))


def ClipGradByGlobalNorm(clip_norm: Limit, norm_type: float = 2.0) -> Rule:
    """Rescale all tensors by one factor, so that their norm taken together is at most `clip_norm`.

    Formula: `out_i = g_i * min(1, clip_norm / (sum_j ||g_j||_p^p)^(1/p))` with p = `norm_type` in [0.1, inf].
    `clip_norm` has the unit of the gradient, is above 0 (`None` or infinity: measure only) and may be a `Schedule`.
    Shapes, dtypes and the direction of the whole gradient stay. Raises `ValueError` or `TypeError` for other values.
    Source: R. Pascanu, T. Mikolov, Y. Bengio 2013, arXiv:1211.5063, section 3.2.

    >>> ClipGradByGlobalNorm(1.0)
    all tensors together: an L2 norm above 1 is rescaled to it
    """
    return Rule(Global(), norm_of_order(norm_type), _threshold(clip_norm, "clip_norm"))


def BlockRMS(limit: Limit = 1.0) -> Rule:
    """Rescale each tensor alone to a root mean square of at most `limit`.

    Formula: `out = g * min(1, limit / rms(g))` with `rms(g) = ||g||_2 / sqrt(number of elements)` for each tensor.
    `limit` has the unit of the gradient, and may be a `Schedule`.
    Source: N. Shazeer, M. Stern 2018, arXiv:1804.04235, section 6 (Adafactor's d = 1.0).
    Differs from the original: (1) there it stands on the update that the optimizer has made: place it there.

    >>> BlockRMS()
    each tensor: a root mean square above 1 is rescaled to it
    """
    return Rule(Tensor(), RMS(), _threshold(limit, "limit"))


def NormalizedGradient(norm: Limit = 1.0, epsilon: float = 0.0, each_tensor: bool = False) -> Rule:
    """Give the gradient always the same norm, from above and from below.

    Formula: `out = g / (||g|| / norm + epsilon)` for all tensors together, or for each where `each_tensor`. A zero
    gradient stays zero. `norm` is one that the dtype of the gradients holds (float16: up to 65504), or what is larger
    becomes infinite.
    Source: E. Hazan, K. Levy, S. Shalev-Shwartz 2015, arXiv:1507.02030 (normalised gradient descent).
    Differs from the original: (1) it is any optimizer's gradient, not the step of plain descent.

    >>> NormalizedGradient()
    all tensors together: an L2 norm above 1 is normalised to it
    """
    return Rule(_scope(each_tensor), L2(), _threshold(norm, "norm"), Normalize(epsilon))


def SmoothClip(
    clip_norm: Limit = 1.0, kind: Literal["reciprocal", "sqrt", "tanh"] = "reciprocal", each_tensor: bool = False
) -> Rule:
    """Bend the norm of the gradient below a threshold instead of breaking it there.

    Formula: `out = g * phi(r)` with `r = ||g|| / clip_norm` for all tensors together, or for each where `each_tensor`:
    `phi(r) = 1 / (1 + r)` ("reciprocal"), `1 / sqrt(1 + r^2)` ("sqrt") or `tanh(r) / r` ("tanh").
    Source: B. Zhang, J. Jin, C. Fang, L. Wang 2020, arXiv:2010.02519 (the reciprocal form of their code).
    Differs from the original: (1) the gradient is bent, not a mixture of it with the momentum; (2) the threshold does
    not depend on the learning rate.

    >>> SmoothClip(1.0)
    all tensors together: an L2 norm above 1 is bent smoothly below it (reciprocal)
    """
    return Rule(_scope(each_tensor), L2(), _threshold(clip_norm, "clip_norm"), Smooth(kind))


def _scope(each_tensor: bool) -> Scope:
    return Tensor() if checked_flag(each_tensor, "each_tensor") else Global()


def _threshold(value: Limit, name: str) -> Threshold:
    """`value` itself if it is a threshold already, else the constant: also one that a compiled program computes."""
    if isinstance(value, Threshold):
        return value
    if has_no_axes(value) and has_no_axes(plain_number(value)):
        if getattr(value, "is_meta", False):
            raise TypeError(f"{name} is a tensor on the device 'meta', which has no number: write 1.0")
        return computed(value)
    try:
        return Constant(value)
    except (TypeError, ValueError) as error:
        raise type(error)(str(error).replace("a threshold", name, 1)) from None
