"""Responses: what happens to a segment, given the ratio r of its measure to its threshold.

Only the ratio enters, so that every response means the same for every norm and threshold: `out = phi(r) * g`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from gradclip.rules.arguments import checked_least, checked_word, keep
from gradclip.rules.arrays import Array, ArrayFunctions

PASS, SCALE, ZERO, KEEP, SKIP, RAISE = range(6)
"""Actions on a segment: leave as it is; multiply; write zeros; leave because it is non-finite; do not step; raise."""

ACTION_NAMES = ("pass", "scale", "zero", "keep", "skip", "raise")


@dataclass(frozen=True)
class Response:
    """Base of the responses: `coefficient` is phi(r) with phi(0) = 1, and `action` is taken where phi(r) is not 1.

    `can_be_zero` says that phi(r) may be 0: then zeros are written, also where an element is not finite. `bounded`
    says that phi(r) r is at most 1, so that nothing is above its threshold afterwards; `enlarges` that phi(r) may be
    above 1. phi of infinity is a number.

    >>> from gradclip.rules.arrays import SCALARS
    >>> Rescale().coefficient(4.0, SCALARS), Normalize().coefficient(0.5, SCALARS)
    (0.25, 2.0)
    """

    action: ClassVar[int] = SCALE
    can_be_zero: ClassVar[bool] = False
    bounded: ClassVar[bool] = True
    enlarges: ClassVar[bool] = False

    @property
    def words(self) -> str:
        """What it is in the sentence of a rule."""
        return ""

    def coefficient(self, ratio: Array, xp: ArrayFunctions) -> Array:
        raise TypeError(
            f"{type(self).__name__} has no coefficient: use one of the responses in gradclip.rules.response"
        )


@dataclass(frozen=True)
class Rescale(Response):
    """Hard clipping: `phi(r) = min(1, 1/r)`, which leaves a segment at or below its threshold bit for bit as it is.

    >>> Rule(response=Rescale())
    all tensors together: an L2 norm above 1 is rescaled to it
    """

    words = "rescaled to it"

    def coefficient(self, ratio: Array, xp: ArrayFunctions) -> Array:
        return 1.0 / xp.maximum(ratio, 1.0)


def is_clamp(response: Response) -> bool:
    """Whether by value it clamps between bounds: a derived response may have a phi of its own."""
    return type(response).coefficient is Rescale.coefficient


@dataclass(frozen=True)
class Smooth(Response):
    """Soft clipping, which bends instead of breaking at the threshold and stays below it.

    `kind` is "reciprocal", `phi(r) = 1 / (1 + r)` (B. Zhang et al. 2020, arXiv:2010.02519); "sqrt",
    `phi(r) = 1 / sqrt(1 + r^2)`; or "tanh", `phi(r) = tanh(r) / r`.

    >>> Rule(response=Smooth("sqrt"))
    all tensors together: an L2 norm above 1 is bent smoothly below it (sqrt)
    """

    kind: Literal["reciprocal", "sqrt", "tanh"] = "reciprocal"

    @property
    def words(self) -> str:
        return f"bent smoothly below it ({self.kind})"

    def __post_init__(self) -> None:
        checked_word(self.kind, "the kind of Smooth", ("reciprocal", "sqrt", "tanh"))

    def coefficient(self, ratio: Array, xp: ArrayFunctions) -> Array:
        if self.kind == "reciprocal":
            return 1.0 / (1.0 + ratio)
        if self.kind == "sqrt":
            return 1.0 / xp.maximum(xp.sqrt(1.0 + ratio * ratio), 1.0)
        safe = xp.maximum(ratio, 1e-150)
        return xp.where(ratio > 1e-150, xp.tanh(safe) / safe, 1.0)


@dataclass(frozen=True)
class Normalize(Response):
    """Always to the threshold, also from below: `phi(r) = 1 / (r + epsilon)`; a zero segment stays zero.

    >>> Rule(Tensor(), response=Normalize())
    each tensor: an L2 norm above 1 is normalised to it
    """

    enlarges: ClassVar[bool] = True
    epsilon: float = 0.0

    @property
    def words(self) -> str:
        return "normalised to it" + (f" (epsilon {self.epsilon:g})" if self.epsilon else "")

    def __post_init__(self) -> None:
        keep(self, "epsilon", checked_least(self.epsilon, "the epsilon of Normalize", "Normalize(1e-6)"))

    def coefficient(self, ratio: Array, xp: ArrayFunctions) -> Array:
        safe = xp.maximum(xp.where(ratio > 0.0, ratio + self.epsilon, 1.0), 1e-300)  # at 0 its slope counts, too
        return xp.where(ratio > 0.0, 1.0 / safe, 1.0)


@dataclass(frozen=True)
class Zero(Response):
    """A segment above its threshold becomes zero: `phi(r) = 1` for r <= 1, else 0. The optimizer still steps.

    >>> Rule(Tensor(), threshold=Constant(100.0), response=Zero())
    each tensor: an L2 norm above 100 is zeroed
    """

    action: ClassVar[int] = ZERO
    can_be_zero: ClassVar[bool] = True
    words = "zeroed"

    def coefficient(self, ratio: Array, xp: ArrayFunctions) -> Array:
        return xp.where(ratio > 1.0, 0.0, 1.0)


@dataclass(frozen=True)
class SkipStep(Zero):
    """A segment above its threshold makes the optimizer skip the step: no update, no decay, no moment moves.

    >>> Rule(threshold=Constant(100.0), response=SkipStep())
    all tensors together: an L2 norm above 100 is answered by skipping the step
    """

    action: ClassVar[int] = SKIP
    words = "answered by skipping the step"


@dataclass(frozen=True)
class Raise(Zero):
    """A segment above its threshold raises `GradientAboveThreshold`; no gradient is written.

    >>> Rule(threshold=Constant(100.0), response=Raise())
    all tensors together: an L2 norm above 100 is answered by an error
    """

    action: ClassVar[int] = RAISE
    words = "answered by an error"
