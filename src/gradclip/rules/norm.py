"""Norms: how the elements of a segment become one measure.

A norm says how parts combine, by sum or by maximum, so that the measure of a whole follows from the measures of its
parts: chunks of a tensor, tensors of a group, shards of a process.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from gradclip.errors import shown
from gradclip.rules.arguments import keep, real_number
from gradclip.rules.arrays import Array, ArrayFunctions

LEAST_ORDER = 0.1
"""Below it an element 1e308 times smaller than the largest counts in the sum, and no float64 holds their ratio."""


@dataclass(frozen=True)
class Norm:
    """Base of the norms: `p` is the order, `combine` says how parts become a whole ("sum" of |x|^p, or "max").

    >>> Linf().p, Linf().combine, L2().combine
    (inf, 'max', 'sum')
    """

    p: float = 2.0

    def __post_init__(self) -> None:
        keep(self, "p", checked_order(self.p))

    @property
    def words(self) -> str:
        """What it is in the sentence of a rule."""
        return ""

    @property
    def combine(self) -> str:
        return "max" if math.isinf(self.p) else "sum"

    def finish(self, total: Array, size: Array | None, xp: ArrayFunctions) -> Array:
        """The norm of a segment: `total^(1/p)`; `size` is its number of elements, which only `RMS` reads."""
        if self.p == 2.0:
            return xp.sqrt(total)
        return total if self.p in (1.0, math.inf) else xp.power(total, 1.0 / self.p)

    def scaled(self, total: Array, coefficient: Array, xp: ArrayFunctions) -> Array:
        """The total of a segment after its elements were multiplied by `coefficient`."""
        if self.p == 2.0:
            return total * coefficient * coefficient
        return total * (coefficient if self.p in (1.0, math.inf) else xp.power(coefficient, self.p))


@dataclass(frozen=True)
class L1(Norm):
    """The sum of the absolute values.

    >>> Rule(norm=L1(), threshold=Constant(0.5))
    all tensors together: an L1 norm above 0.5 is rescaled to it
    """

    p: float = field(default=1.0, init=False)
    words = "an L1 norm"


@dataclass(frozen=True)
class L2(Norm):
    """The Euclidean norm, the square root of the sum of squares: the default.

    >>> Rule(norm=L2(), threshold=Constant(0.5)) == ClipGradByGlobalNorm(0.5)
    True
    """

    p: float = field(default=2.0, init=False)
    words = "an L2 norm"


@dataclass(frozen=True)
class Linf(Norm):
    """The largest absolute value.

    >>> Rule(Tensor(), Linf(), Constant(0.5))
    each tensor: a largest absolute value above 0.5 is rescaled to it
    """

    p: float = field(default=math.inf, init=False)
    words = "a largest absolute value"


@dataclass(frozen=True)
class Lp(Norm):
    """The p-norm for a finite p of 0.1 and above: `(sum |x|^p)^(1/p)`.

    >>> Rule(norm=Lp(3), threshold=Constant(0.5))
    all tensors together: an L3 norm above 0.5 is rescaled to it
    """

    @property
    def words(self) -> str:
        return f"an L{self.p:g} norm"


@dataclass(frozen=True)
class RMS(Norm):
    """The root mean square: the L2 norm over the square root of the number of elements.

    >>> Rule(Tensor(), RMS(), Constant(0.5))
    each tensor: a root mean square above 0.5 is rescaled to it
    """

    p: float = field(default=2.0, init=False)
    words = "a root mean square"

    def finish(self, total: Array, size: Array | None, xp: ArrayFunctions) -> Array:
        return xp.sqrt(total / xp.maximum(size, 1.0))


def checked_order(p: object) -> float:
    """`p` as a float, or the error that says which orders exist."""
    value = real_number(p)
    if value is None:
        raise TypeError(f"the order of a norm is a number in [0.1, inf], got {shown(p)}: write 2.0 or float('inf')")
    if value > 0 and not value >= LEAST_ORDER:
        raise ValueError(
            f"the order of a norm lies in [0.1, inf], got {value}: write 2.0, 1.0 or float('inf'); "
            "below 0.1 the sum is of elements further apart than float64 can hold"
        )
    if not value > 0:
        raise ValueError(
            f"the order of a norm lies in [0.1, inf], got {value}: write 2.0, 1.0 or float('inf'); "
            "orders of 0 and below are not norms, and with them a single zero element would switch clipping off"
        )
    return value


NORMS: dict[float, Norm] = {1.0: L1(), 2.0: L2(), math.inf: Linf()}
"""The orders whose norms have a name of their own."""


def norm_of_order(p: object) -> Norm:
    """The norm of order `p` in [0.1, inf].

    >>> norm_of_order(1), norm_of_order(float("inf")), norm_of_order(3)
    (L1(p=1.0), Linf(p=inf), Lp(p=3.0))
    """
    value = checked_order(p)
    return NORMS.get(value) or Lp(value)


def norm_of_order_or_word(p: object) -> Norm:
    """The norm of order `p`, or of "inf", the one word for an order."""
    return norm_of_order(math.inf if isinstance(p, str) and p == "inf" else p)
