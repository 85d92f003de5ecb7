"""The histogram of norms: bins of equal width in the logarithm."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

BINS = 60
NARROWEST = 0.05
"""The least width of all bins together, in decades: norms that are all alike still get bins around them."""
LOWEST, HIGHEST = -323.0, 308.2
"""The bins lie around these at most, and their edges are floats."""


def log_edges(norms: Iterable[float], bins: int = BINS) -> list[float]:
    """The decimal logarithms of the edges of `bins` bins that hold every norm above 0; none where no norm is.

    >>> log_edges([1.0, 100.0, 0.0], bins=2)
    [0.0, 1.0, 2.0]
    """
    counted = [norm for norm in norms if 0 < norm < math.inf]
    if not counted:
        return []
    low, high = math.log10(min(counted)), min(math.log10(max(counted)), 308.25)
    if high - low < NARROWEST:
        middle = min(max((low + high) / 2, LOWEST), HIGHEST)
        low, high = middle - NARROWEST / 2, middle + NARROWEST / 2
    return [low + (high - low) * edge / bins for edge in range(bins + 1)]


def counts(norms: Iterable[float], edges: Sequence[float]) -> list[int]:
    """How many norms above 0 lie in each bin; the largest one belongs to the last bin.

    >>> counts([1.0, 5.0, 10.0, 100.0], [0.0, 1.0, 2.0])
    [2, 2]
    """
    bins = len(edges) - 1
    found = [0] * bins
    for norm in norms:
        if 0 < norm < math.inf:
            place = int((math.log10(norm) - edges[0]) / (edges[-1] - edges[0]) * bins)
            found[max(0, min(place, bins - 1))] += 1
    return found
