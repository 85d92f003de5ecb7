"""Methods whose threshold is a share of the weights."""

from __future__ import annotations

from collections.abc import Sequence

from gradclip.errors import shown
from gradclip.rules.arguments import checked_factor, items_of
from gradclip.rules.combine import WeightRatio
from gradclip.rules.norm import L2
from gradclip.rules.response import Rescale
from gradclip.rules.rule import Rule, Rules
from gradclip.rules.scope import Axes, Row, Tensor
from gradclip.rules.threshold import Schedule

__all__ = ["AGC", "LARC"]


def AGC(
    ratio: float | Schedule = 0.01, floor: float = 1e-3, exclude: str | Sequence[str] = (), axis: Axes | None = None
) -> Rule | Rules:
    """Rescale each output unit to a share of the norm of its weights: adaptive gradient clipping.

    Formula: `out_i = g_i * min(1, ratio * max(||w_i||, floor) / ||g_i||)` for each output unit i of a weight: one index
    of the axis that the framework's layers give to their outputs, or of `axis`, which may be several, `axis=(1, 2)`. A
    tensor of fewer than two axes is one unit. Where the layers keep three axes for attention (in, heads, dim), a
    convolution over one dimension (width, in, out) needs `axis=-1` in a rule of its own. `ratio` has no unit, `floor`
    that of the weights and lets weights of zero move. `exclude` names parameters by pattern that are left alone: the
    original leaves out the last layer, `exclude="head.*"`.
    Source: A. Brock, S. De, S. L. Smith, K. Simonyan 2021, arXiv:2102.06171, section 4; the defaults are theirs for a
    batch of 4096.
    Differs from the original: (1) a zero gradient is left alone where the original divides by 1e-6; (2) the layer to
    exclude is named by the user; (3) the axis of the units follows the framework's layers.

    >>> AGC(0.01, exclude="head.*")
    by name: head.* (left alone); * (each row: an L2 norm above 0.01 of that of the weights (0.001 at least) is \
rescaled to it)
    """
    rule = Rule(Row(axis), L2(), WeightRatio(ratio, floor), Rescale())
    patterns = None if isinstance(exclude, str) else items_of(exclude)
    patterns = [exclude] if patterns is None else patterns
    if wrong := [pattern for pattern in patterns if not isinstance(pattern, str)]:
        raise TypeError(f'exclude is a pattern or a list of them, got {shown(wrong[0])}: write exclude=["head.*"]')
    return Rules([*((pattern, None) for pattern in patterns), ("*", rule)]) if patterns else rule


def LARC(trust_coefficient: float = 0.02, lr: float = 0.1) -> Rule:
    """Rescale each tensor so that plain gradient descent moves it by at most a share of its norm.

    Formula: `out = g * min(1, trust_coefficient * ||w|| / (lr * ||g||))` for each tensor, so that `lr * ||out||` is at
    most `trust_coefficient * ||w||`. `lr` is the learning rate of the optimizer. A tensor of zeros is not clipped.
    Source: Y. You, I. Gitman, B. Ginsburg 2017, arXiv:1708.03888 (LARS); the clipping form and its default 0.02 are
    those of NVIDIA Apex (LARC, clip=True).
    Differs from the original: (1) weight decay is not part of the norm; (2) no epsilon; (3) `lr` is given here, so a
    learning rate that changes needs a new rule, or the ratio as a `Schedule` in `WeightRatio`.

    >>> LARC(0.02, lr=0.1)
    each tensor: an L2 norm above 0.2 of that of the weights is rescaled to it
    """
    trust = checked_factor(trust_coefficient, "trust_coefficient", "0.02")
    return Rule(Tensor(), L2(), WeightRatio(trust / checked_factor(lr, "lr", "0.1")), Rescale())
