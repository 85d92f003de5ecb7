"""Down-sampling for a picture that loses no spike: of every bucket the smallest and the largest stay."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence


def thin(values: Sequence[float], most: int) -> list[int]:
    """The places of at most `most` values that draw the same outline, in order.

    All of them, if they are no more. Else the places are cut into `most // 2` buckets of equal length, and the smallest
    and the largest finite value of each stay. One without finite values leaves its first place, so that a line breaks
    there.

    >>> thin([1.0, 9.0, 2.0, 3.0, 3.5, 0.5], 4)
    [0, 1, 4, 5]
    """
    if len(values) <= most:
        return list(range(len(values)))
    kept: list[int] = []
    for bucket in buckets(len(values), most // 2):
        finite = [place for place in bucket if math.isfinite(values[place])]
        if finite:
            kept += sorted({min(finite, key=values.__getitem__), max(finite, key=values.__getitem__)})
        else:
            kept.append(bucket[0])
    return kept


def buckets(length: int, most: int) -> list[range]:
    """At most `most` ranges, equally long up to one, that cover `length` places in order."""
    number = max(1, min(most, length))
    edges = [length * bucket // number for bucket in range(number + 1)]
    return [range(start, end) for start, end in itertools.pairwise(edges) if end > start]
