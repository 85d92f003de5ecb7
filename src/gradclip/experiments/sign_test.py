"""Better, worse, or within noise: the sign test on runs that are paired by their seed."""

from __future__ import annotations

import math
from collections.abc import Sequence

BETTER, WORSE, WITHIN_NOISE, TOO_FEW = "better", "worse", "within noise", "too few seeds"
ODDS = 1 / 16
"""The two-sided chance up to which a difference counts: all of five to eight seeds agree, 8 of 9, 9 of 10."""


def paired_verdict(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """Whether the costs `ours` are better or worse than `theirs`, seed by seed (lower is better).

    Both rules of a pair start from the same weights and see the same batches, so what they differ by on one seed is
    the rule; how far seeds lie apart does not blur it. Only the sign of each difference is used: final losses have
    heavy tails, a diverged run (infinite) has no size, and five numbers carry no estimate of a variance. Were two rules
    equal, either would win a seed with chance 1/2, and `n` of `n` seeds would agree with chance `2 * 2^-n`: 1/16 for
    five. That is the limit here, and fewer than five seeds cannot reach it. A tie counts for neither.

    "better" therefore says: on these seeds consistently so; it says nothing of how much, which the difference says
    (`paired_difference`). Of sixteen rules that change nothing, one is called better or worse by chance: a surprise is
    worth more seeds, or a correction for the number of rules (`holm`). "within noise" says that no difference was
    shown, which is not that there is none.

    >>> paired_verdict([2.4, 2.5, 2.4, 2.6, 2.5], [2.6, 2.7, 2.5, 2.7, float("inf")])
    'better'
    >>> paired_verdict([2.4, 2.5, 2.4, 2.6, 2.8], [2.6, 2.7, 2.5, 2.7, 2.7])
    'within noise'
    """
    if chance(len(ours), len(ours)) > ODDS:
        return TOO_FEW
    wins, losses = wins_and_losses(ours, theirs)
    if chance(wins, len(ours)) <= ODDS:
        return BETTER
    return WORSE if chance(losses, len(ours)) <= ODDS else WITHIN_NOISE


def wins_and_losses(ours: Sequence[float], theirs: Sequence[float]) -> tuple[int, int]:
    """On how many seeds the costs `ours` are lower than `theirs`, and on how many higher."""
    pairs = list(zip(ours, theirs, strict=True))
    return sum(a < b for a, b in pairs), sum(a > b for a, b in pairs)


def paired_chance(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The two-sided chance of so many seeds on one side, were either side as likely; a tie counts for neither.

    >>> paired_chance([1.0] * 7, [2.0] * 7), paired_chance([1.0] * 7, [2.0] * 6 + [0.0])
    (0.015625, 0.125)
    """
    return chance(max(wins_and_losses(ours, theirs)), len(ours))


def chance(wins: int, seeds: int) -> float:
    """The two-sided chance of `wins` or more of `seeds` fair coins on one side; at most 1.

    >>> chance(5, 5), chance(4, 5)
    (0.0625, 0.375)
    """
    ways = sum(math.comb(seeds, heads) for heads in range(wins, seeds + 1))
    return min(1.0, float(2 * ways / 2**seeds))
