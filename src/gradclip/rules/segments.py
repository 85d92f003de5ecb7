"""Segments: which measured parts belong together, for one stage of a rule."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from gradclip.rules.scope import Global, Group, Row, Scope, rows_of

Shape = tuple[int, ...]


class Segments(NamedTuple):
    """How the S measured segments make the G segments of a stage.

    `number` is G; `places` [S] gives the stage's segment of each measured one, None where they are the same. `sizes`
    [G] are the numbers of elements, empty where the norm does not read them.
    """

    number: int
    places: Sequence[int] | None = None
    sizes: Sequence[int] = ()


def segments(
    scope: Scope, leaf: Scope, shapes: Sequence[Shape], groups: Sequence[int] | None, sized: bool = False
) -> Segments:
    """The segments of a stage of `scope`, when tensors of `shapes` were measured at the scope `leaf`.

    `groups` is the parameter group of each tensor; without it all tensors are one group.
    """
    if isinstance(scope, Group):
        of_tensor = list(groups) if groups is not None else [0] * len(shapes)
    else:
        of_tensor = [0] * len(shapes) if isinstance(scope, Global) else list(range(len(shapes)))
    rows = list(map(rows_of, shapes)) if isinstance(leaf, Row) else [1] * len(shapes)
    if isinstance(scope, Row):
        of_tensor = []
    index = None if scope == leaf else [of for of, n in zip(of_tensor, rows, strict=True) for _ in range(n)]
    least = 1 if isinstance(scope, Global) else 0
    count = sum(rows) if isinstance(scope, Row) else max(of_tensor, default=least - 1) + 1
    return Segments(count, index, _sizes(index, count, shapes, rows, scope) if sized else ())


def _sizes(
    index: Sequence[int] | None, count: int, shapes: Sequence[Shape], rows: Sequence[int], scope: Scope
) -> list[int]:
    if isinstance(scope, Global):
        return [sum(map(math.prod, shapes))]
    of_leaf = [math.prod(shape) // n for shape, n in zip(shapes, rows, strict=True) if n for _ in range(n)]
    if index is None:
        return of_leaf
    sizes = [0] * count
    for segment, size in zip(index, of_leaf, strict=True):
        sizes[segment] += size
    return sizes


def segment_names(scope: Scope, name: Callable[[int], str], shapes: Sequence[Shape], count: int) -> list[str]:
    """A name for each of `count` segments: the tensor's, `name[row]`, `group i`, or `all`; rows need the shapes."""
    if isinstance(scope, Global):
        return ["all"]
    if isinstance(scope, Group):
        return [f"group {number}" for number in range(count)]
    if isinstance(scope, Row):
        return [
            f"{name(index)}[{row}]" if len(shape) >= 2 else name(index)
            for index, shape in enumerate(shapes)
            for row in range(rows_of(shape))
        ]
    return [name(index) for index in range(count)]
