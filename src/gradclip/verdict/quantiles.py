"""Quantiles of norms."""

from __future__ import annotations

import math
from collections.abc import Sequence


def quantile(norms: Sequence[float], share: float) -> float:
    """The norm that this share of the norms lies below, interpolated linearly; NaN of none.

    >>> quantile([1.0, 2.0, 4.0], 0.75)
    3.0
    """
    if not norms:
        return math.nan
    ordered = sorted(norms)
    place = share * (len(ordered) - 1)
    low = min(int(place), len(ordered) - 1)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])
