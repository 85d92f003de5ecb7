"""By how much two rules differ, seed by seed: the median of the differences, and an interval that assumes no shape."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95
"""The confidence of an interval, where there are seeds enough."""
EQUAL_AT = 0.9
"""That of the interval in which two rules are shown to be equal: two one-sided tests at 5 %."""


@dataclass(frozen=True)
class PairedDifference:
    """The median difference of paired runs, and the interval `low` to `high` with the confidence that it really has.

    The interval lies between two of the sorted differences, the `k`-th from below and the `k`-th from above (W. R.
    Thompson 1936, "On confidence ranges for the median", Annals of Mathematical Statistics 7). The median of what the
    differences are drawn from lies outside only where fewer than `k` of `n` fair coins show one side, whatever the
    shape of the distribution: the sign test, asked for which differences it would accept. Infinite differences, of a
    run that diverged, are at the ends.

    >>> PairedDifference.of([-0.2, -0.1, -0.3, -0.1, -0.2, -0.4, 0.1])
    PairedDifference(median=-0.2, low=-0.4, high=0.1, confidence=0.984375)
    """

    median: float
    low: float
    high: float
    confidence: float

    @classmethod
    def of(cls, differences: Sequence[float], confidence: float = CONFIDENCE) -> PairedDifference:
        """The narrowest of these intervals with at least this confidence; the widest, with less, where none has it."""
        ordered = sorted(differences)
        cut = max(
            (k for k in range(1, (len(ordered) + 1) // 2) if covered(k + 1, len(ordered)) >= confidence), default=0
        )
        return cls(_middle(ordered), ordered[cut], ordered[-1 - cut], covered(cut + 1, len(ordered)))

    def within(self, margin: float) -> bool:
        """Whether the interval lies inside of plus and minus `margin`."""
        return -margin < self.low and self.high < margin


def covered(k: int, number: int) -> float:
    """The chance that the median lies between the `k`-th from below and the `k`-th from above of so many.

    >>> covered(1, 7), covered(2, 7), covered(1, 5)
    (0.984375, 0.875, 0.9375)
    """
    outside = sum(math.comb(number, heads) for heads in range(k))
    return max(0.0, 1.0 - math.ldexp(outside, 1 - number))


def equal_within(differences: Sequence[float], margin: float) -> bool:
    """Whether the differences are shown to be smaller than `margin`, to both sides, by one-sided tests at 5 %.

    That is so where an interval at 90 % lies inside of the margin (D. J. Schuirmann 1987, "A comparison of the two
    one-sided tests procedure and the power approach", Journal of Pharmacokinetics and Biopharmaceutics 15). Of five
    to seven seeds all have to; four or fewer show it of nothing.

    >>> equal_within([0.01, -0.01, 0.0, 0.0, 0.01], 0.02), equal_within([0.0] * 4, 0.02)
    (True, False)
    """
    found = PairedDifference.of(differences, EQUAL_AT)
    return found.confidence >= EQUAL_AT and found.within(margin)


def _middle(ordered: Sequence[float]) -> float:
    """The median; 0 where it lies between two infinities."""
    median = statistics.median(ordered)
    return 0.0 if math.isnan(median) else median
