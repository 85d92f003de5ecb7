"""The named methods, each as one expression of scope, norm, threshold and response."""

from __future__ import annotations

from typing import Any

from gradclip.rules.norm import Linf, norm_of_order
from gradclip.rules.rule import Rule
from gradclip.rules.scope import Element, Global, Tensor
from gradclip.rules.threshold import Bounds, Constant, Threshold


def ClipGradByValue(max: Any, min: float | None = None) -> Rule:
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
    return Rule(Element(), Linf(), Bounds(max, min))


def ClipGradByNorm(clip_norm: Any, norm_type: float = 2.0) -> Rule:
    """Rescale each tensor alone to a norm of at most `clip_norm`.

    Formula: `out = g * min(1, clip_norm / ||g||_p)` with p = `norm_type` in (0, inf]. `clip_norm` has the unit of the
    gradient, is above 0 (`None` or infinity: measure only) and may be a `Schedule`. Shape, dtype and direction of each
    tensor stay; the direction of all tensors together does not. Raises `ValueError` or `TypeError` for other values.
    Source: R. Pascanu, T. Mikolov, Y. Bengio 2013, arXiv:1211.5063, section 3.2, applied to each tensor.

    >>> ClipGradByNorm(1.0)
    each tensor: an L2 norm above 1 is rescaled to it
    """
    return Rule(Tensor(), norm_of_order(norm_type), _threshold(clip_norm, "clip_norm"))


def ClipGradByGlobalNorm(clip_norm: Any, norm_type: float = 2.0) -> Rule:
    """Rescale all tensors by one factor, so that their norm taken together is at most `clip_norm`.

    Formula: `out_i = g_i * min(1, clip_norm / (sum_j ||g_j||_p^p)^(1/p))` with p = `norm_type` in (0, inf].
    `clip_norm` has the unit of the gradient, is above 0 (`None` or infinity: measure only) and may be a `Schedule`.
    Shapes, dtypes and the direction of the whole gradient stay. Raises `ValueError` or `TypeError` for other values.
    Source: R. Pascanu, T. Mikolov, Y. Bengio 2013, arXiv:1211.5063, section 3.2.

    >>> ClipGradByGlobalNorm(1.0)
    all tensors together: an L2 norm above 1 is rescaled to it
    """
    return Rule(Global(), norm_of_order(norm_type), _threshold(clip_norm, "clip_norm"))


def _threshold(value: Any, name: str) -> Threshold:
    """`value` itself if it is a threshold already, else the constant."""
    if isinstance(value, Threshold):
        return value
    try:
        return Constant(value)
    except (TypeError, ValueError) as error:
        raise type(error)(str(error).replace("a threshold", name, 1)) from None
