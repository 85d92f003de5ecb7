"""Scopes: which elements are measured together.

A scope cuts the gradients into segments. `Element` < `Row` < `Tensor` < `Group` < `Global`, from fine to coarse: each
segment of a coarser scope is a union of segments of a finer one, so a measure taken fine can be combined to coarse.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, TypeAlias

from gradclip.errors import shown
from gradclip.rules.arguments import MOST, is_whole

Axes: TypeAlias = int | tuple[int, ...]
"""One axis or several, counted from the front, or from the back where they are negative."""


@dataclass(frozen=True)
class Scope:
    """Base of the scopes; `grain` orders them from fine (0) to coarse.

    >>> sorted([Global(), Tensor(), Element()], key=lambda scope: scope.grain)
    [Element(), Tensor(), Global()]
    """

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

    >>> Rule(scope=Element(), threshold=Constant(0.5))
    each element: a magnitude above 0.5 is rescaled to it
    """

    grain: ClassVar[int] = 0
    words = "each element"


@dataclass(frozen=True)
class Row(Scope):
    """Each output unit of a weight: one index of `axis`; a tensor of fewer than two axes is one unit.

    `axis` counts from the front, or from the back where it is negative: `Row(1)` is for the weights (in, out, height,
    width) of a transposed convolution. Several axes that are neighbours have a unit for each index of all of them:
    `Row((1, 2))` is for the weights (in, heads, dim) of an attention layer. None is where the framework's usual layers
    keep their output units (`Engine.unit_axis`). A tensor without the axis is refused.

    >>> Rule(scope=Row(), threshold=WeightRatio(0.01))
    each row: an L2 norm above 0.01 of that of the weights is rescaled to it
    >>> Rule(scope=Row((1, 2)))
    each index of the axes 1 and 2: an L2 norm above 1 is rescaled to it
    """

    axis: Axes | None = None
    grain: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if self.axis is None or is_whole(self.axis, -MOST):
            return
        if not isinstance(self.axis, tuple | list) or not all(is_whole(axis, -MOST) for axis in self.axis):
            raise TypeError(
                f"the axis of a Row is a whole number, a tuple of them or None, got {shown(self.axis)}: write Row(1), "
                "Row(-1) or Row((1, 2))"
            )
        axes = tuple(sorted(self.axis, key=lambda axis: (axis < 0, axis)))
        if wrong := wrong_axes(axes):
            raise ValueError(f"the axes of a Row are neighbours, got {shown(self.axis)}, {wrong}: write Row((1, 2))")
        object.__setattr__(self, "axis", axes if len(axes) > 1 else axes[0])

    @property
    def words(self) -> str:
        if isinstance(self.axis, tuple):
            return f"each index of the axes {', '.join(map(str, self.axis[:-1]))} and {self.axis[-1]}"
        return "each row" if self.axis is None else f"each index of axis {self.axis}"


def wrong_axes(axes: Sequence[int]) -> str:
    """Why no tensor can be cut into rows along these sorted `axes`, those from the back last; nothing where one can."""
    if not axes:
        return "which are none"
    steps = [b - a for a, b in pairwise(axes)]
    if 0 in steps:
        return "one of which is there twice"
    from_both_ends = axes[-1] < 0 <= axes[0]  # what lies between them depends on the tensor
    return "between which others lie" if not from_both_ends and max(steps, default=1) > 1 else ""


@dataclass(frozen=True)
class Tensor(Scope):
    """Each tensor alone.

    >>> Rule(scope=Tensor()) == ClipGradByNorm(1.0)
    True
    """

    grain: ClassVar[int] = 2
    words = "each tensor"


@dataclass(frozen=True)
class Group(Scope):
    """The tensors of one parameter group of the optimizer together.

    >>> Rule(scope=Group())
    each parameter group: an L2 norm above 1 is rescaled to it
    """

    grain: ClassVar[int] = 3
    words = "each parameter group"


@dataclass(frozen=True)
class Global(Scope):
    """All tensors together.

    >>> Rule(scope=Global()) == ClipGradByGlobalNorm(1.0)
    True
    """

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
