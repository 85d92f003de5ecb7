"""Scopes: which elements are measured together.

A scope cuts the gradients into segments. `Element` < `Row` < `Tensor` < `Group` < `Global`, from fine to coarse: each
segment of a coarser scope is a union of segments of a finer one, so a measure taken fine can be combined to coarse.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Scope:
    """Base of the scopes; `grain` orders them from fine (0) to coarse."""

    grain: ClassVar[int] = -1

    @property
    def words(self) -> str:
        """What it is in the sentence of a rule."""
        return ""


@dataclass(frozen=True)
class Element(Scope):
    """Each element alone: clipping by value.

    Its engines report two segments a tensor, the largest positive and the largest negative magnitude, because that is
    all that a threshold needs to know.
    """

    grain: ClassVar[int] = 0
    words = "each element"


@dataclass(frozen=True)
class Row(Scope):
    """Each output unit of a weight: one index of `axis`; a tensor of fewer than two axes is one unit.

    `axis` counts from the front, or from the back where it is negative: `Row(1)` is for the weights (in, out, height,
    width) of a transposed convolution. None is where the framework's usual layers keep their output units
    (`Engine.unit_axis`). A tensor without the axis is refused.
    """

    axis: int | None = None
    grain: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if self.axis is not None and type(self.axis) is not int:
            raise TypeError(f"the axis of a Row is a whole number or None, got {self.axis!r}: write Row(1) or Row(-1)")

    @property
    def words(self) -> str:
        return "each row" if self.axis is None else f"each index of axis {self.axis}"


@dataclass(frozen=True)
class Tensor(Scope):
    """Each tensor alone."""

    grain: ClassVar[int] = 2
    words = "each tensor"


@dataclass(frozen=True)
class Group(Scope):
    """The tensors of one parameter group of the optimizer together."""

    grain: ClassVar[int] = 3
    words = "each parameter group"


@dataclass(frozen=True)
class Global(Scope):
    """All tensors together."""

    grain: ClassVar[int] = 4
    words = "all tensors together"


def rows_of(shape: Sequence[int]) -> int:
    """The number of `Row` segments in a tensor of `shape`, whose first axis is that of the rows."""
    return int(shape[0]) if len(shape) >= 2 else 1


def finest(scopes: Sequence[Scope]) -> Scope:
    """The scope to measure at, so that each of `scopes` can be combined from it; `Group` is combined from `Tensor`."""
    leaf = min(scopes, key=lambda scope: scope.grain)
    mixed = any(scope != leaf for scope in scopes)
    return Tensor() if isinstance(leaf, Group) or (mixed and leaf.grain > Tensor.grain) else leaf
