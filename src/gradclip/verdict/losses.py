"""The losses of a run, and where it began and ended: norms say what clipping does, only the loss what it is worth."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Sequence
from statistics import fmean, stdev

from gradclip.telemetry.event import Event

MOST = 1e150
"""A number above it counts as not finite: it is no level but a breakdown, and its sums leave the range of a float."""

PART = 10
"""The loss of the beginning and that of the end are means over one of so many equal parts of the steps."""

BLOCKS, FEWEST = 5, 10
"""The losses of neighbouring steps are alike, so that they say less than as many independent ones. The means of a few
long blocks are nearly independent: over B blocks the mean of all has the variance of those means, divided by B. A loss
that still falls counts as noise too, which errs towards no difference."""

SURE = 3.0
"""Two ends differ where their means do by so many standard errors of the difference. With 5 blocks each that is 3 sigma
of a t distribution with 4 to 8 degrees of freedom: of 100 pairs of runs that are alike, 2 to 4 are told apart."""


def losses_of(events: Sequence[Event]) -> list[float]:
    """The losses of the steps that have one: infinite where they are not finite, or their sums would not be."""
    return [loss if abs(loss) < MOST else math.inf for event in events if (loss := event.loss) is not None]


def part_of(losses: Sequence[float]) -> int:
    """How many losses a tenth of them is: one at least, if there are any."""
    return math.ceil(len(losses) / PART)


def final_loss(run: Sequence[Event]) -> float | None:
    """The mean loss of the last tenth of the steps that have one.

    None where no step has one, infinite where one of the tenth is not finite.
    """
    return mean_loss(end_of(run))


def end_of(run: Sequence[Event]) -> list[float]:
    """The losses of the last tenth of the steps that have one."""
    losses = losses_of(run)
    return losses[len(losses) - part_of(losses) :]


def mean_loss(losses: Sequence[float]) -> float | None:
    """The mean of losses: infinite where one is not finite, None of none."""
    if not losses:
        return None
    return fmean(losses) if all(map(math.isfinite, losses)) else math.inf


def lower(losses: Sequence[float], others: Sequence[float]) -> bool:
    """Whether the mean of losses at the end of a training lies below that of another, by more than noise.

    Trainings of a script are compared step by step, where they have equally many: what makes a batch hard cancels out.
    Of fewer than 10 losses their noise is not known, and any difference counts.
    """
    if not all(map(math.isfinite, losses)) or not losses:
        return False
    if not all(map(math.isfinite, others)) or min(len(losses), len(others)) < FEWEST:
        return fmean(losses) < fmean(others)
    if fmean(losses) >= fmean(others):
        return False
    gains = [other - loss for loss, other in zip(losses, others, strict=False)]
    paired = len(losses) == len(others) and fmean(gains) > SURE * standard_error(gains)
    return paired or differ(losses, others)


def differ(losses: Sequence[float], others: Sequence[float]) -> bool:
    """Whether the losses at the end of two runs differ by more than noise, in their means or in their ranks.

    A single loss of a million makes the mean of its run too unsure to differ from any other, and is one rank.
    """
    return _means_differ(losses, others) or _means_differ(*ranks_in(losses, others))


def lower_by_rank(losses: Sequence[float], others: Sequence[float]) -> bool:
    """Whether losses lie below others in their ranks, by more than noise; a few huge ones count as any other does."""
    if min(len(losses), len(others)) < FEWEST:
        return False
    ranks, other_ranks = ranks_in(losses, others)
    return fmean(ranks) < fmean(other_ranks) and _means_differ(ranks, other_ranks)


def ranks_in(losses: Sequence[float], others: Sequence[float]) -> tuple[list[int], list[int]]:
    """The rank of each loss among all of both, times two; of equal ones the middle."""
    ordered = sorted([*losses, *others])
    ranks, other_ranks = (
        [bisect.bisect_left(ordered, loss) + bisect.bisect_right(ordered, loss) for loss in run]
        for run in (losses, others)
    )
    return ranks, other_ranks


def _means_differ(first: Sequence[float], second: Sequence[float]) -> bool:
    """Whether the means differ by more than their noise."""
    return abs(fmean(first) - fmean(second)) > SURE * math.hypot(standard_error(first), standard_error(second))


def standard_error(losses: Sequence[float]) -> float:
    """The standard error of the mean of losses in their order, from the means of 5 blocks; there are 5 losses or more.

    >>> standard_error([1.0, 1.0, 1.0, 1.0, 6.0])
    1.0
    """
    edges = [len(losses) * block // BLOCKS for block in range(BLOCKS + 1)]
    return stdev(fmean(losses[start:end]) for start, end in itertools.pairwise(edges)) / math.sqrt(BLOCKS)
