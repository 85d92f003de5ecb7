"""A chance for each of several comparisons, corrected for their number."""

from __future__ import annotations

from collections.abc import Sequence

SURVIVES = 0.05
"""The corrected chance up to which a verdict is called corrected."""


def corrected_for_number(chances: Sequence[float]) -> list[float]:
    """The chances by the correction of Holm: however many rules change nothing, one of them or more falls to `p` or
    below with a chance of `p` at most.

    The smallest of `m` chances counts `m` times, the next one `m - 1` times, and none less than one before it (S. Holm
    1979, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6). Nothing is
    assumed of how the comparisons hang together, which they do: they share a rule and the seeds.

    >>> corrected_for_number([0.25, 0.015625, 0.0625])
    [0.25, 0.046875, 0.125]
    """
    corrected, largest = [0.0] * len(chances), 0.0
    for place, number in enumerate(sorted(range(len(chances)), key=chances.__getitem__)):
        largest = max(largest, min(1.0, (len(chances) - place) * chances[number]))
        corrected[number] = largest
    return corrected
