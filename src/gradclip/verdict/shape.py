"""What the norms of a run are like: where they are warm, whether their level moves, and how they lie around it.

Levels are compared as logarithms, so that it does not matter what the unit of the gradient is.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, geometric_mean, median, pvariance

from gradclip.verdict.quantiles import quantile

BLOCKS, QUARTERS = 20, 4
SHORTEST_BLOCK, MOST_BLOCKS = 10, 100
"""A warm-up is looked for in blocks of at least ten steps, and of at least a hundredth of the run."""
SLACK = 1.25
"""The factor by which the level of a block may leave the range of those in the second half and still be warm."""
TUKEY = 5.19
"""The largest distance of four equal means, in standard errors, up to which 99 % of draws stay (16 degrees of freedom).
J. W. Tukey 1949: the honestly significant difference."""
LEAST_DRIFT, FEWEST_IN_BLOCK = 1.5, 5
"""A drift is a change of the level by half, in a run that is long enough to tell it from the end of a warm-up."""
WIDE = 3.0
"""Norms are wide where the 95 % quantile is this many times the median; of log-normal ones, from a sigma of 0.67 on."""
FAR = 3.0
"""A spike is a norm this many times the 95 % quantile."""
FEWEST_SPIKES = 1e-3
RARE = 0.05
"""What happens at least this often is no accident: a second level is one that has this share of the steps."""
JUMP, LASTING = 5.0, 1.5
"""Norms run away where the largest so far is five times the last ten, and after it the level is higher by half."""
LEAST_SWITCHES = 4
"""Two kinds of batches come in turns; norms that fell from one level to the other at some step do not come back."""
NO_MANS_LAND = 0.2
"""Between two levels there is a gap: in its middle third lie fewer than this share of what the smaller level has."""


@dataclass(frozen=True)
class Levels:
    """Two levels of norms: the median of each, and the share of the steps that the upper one has."""

    lower: float
    upper: float
    share: float


@dataclass(frozen=True)
class Shape:
    """What norms are like. `warm` are those after the warm-up, and `recent` those that have the level of the end.

    Where norms ran away at some step, `runaway`, both are those before it. `drift` is the level of the last quarter of
    the warm part over that of the first, 1 where the quarters are alike; `width` is the 95 % quantile over the median,
    `spikes` the share of the recent steps that lie far above it.
    """

    runaway: int | None
    warmup: int
    warm: list[float]
    recent: list[float]
    drift: float
    levels: Levels | None
    width: float
    spikes: float

    @property
    def kind(self) -> str:
        """The word for it; the first that holds counts."""
        words = {
            "runaway": self.runaway is not None,
            "constant": self.width == 1.0 and min(self.warm) == max(self.warm),
            "drifting": self.drift != 1.0,
            "two levels": self.levels is not None,
            "wide": self.width > WIDE,
            "spiky": self.spikes >= FEWEST_SPIKES,
        }
        return next((word for word, true in words.items() if true), "steady")


def shape_of(norms: Sequence[float]) -> Shape:
    """The shape of norms, all finite and above 0."""
    runaway = runaway_of(norms)
    warmup = warm_up(norms) if runaway is None else 0
    warm = list(norms[warmup:runaway])
    drift = drift_of(warm) if runaway is None else 1.0
    recent = warm if drift == 1.0 else warm[-(len(warm) // QUARTERS) :]
    ordinary = quantile(recent, 0.95)
    return Shape(
        runaway=runaway,
        warmup=warmup,
        warm=warm,
        recent=recent,
        drift=drift,
        levels=levels_of(recent),
        width=ordinary / quantile(recent, 0.5),
        spikes=sum(norm > FAR * ordinary for norm in recent) / len(recent),
    )


def runaway_of(norms: Sequence[float]) -> int | None:
    """Where norms left their level for good by a jump; None where they did not."""
    largest = max(norms[:2], default=0.0)
    for place in range(2, len(norms) - SHORTEST_BLOCK):
        if norms[place] > largest:
            largest, last = norms[place], norms[max(0, place - SHORTEST_BLOCK) : place]
            if largest > JUMP * geometric_mean(last) and _lost(norms, place):
                return place
    return None


def _lost(norms: Sequence[float], place: int) -> bool:
    """Whether a jump at `place` broke the level: norms overshot, and stay higher, soon after it and in the end.

    Without an overshoot the jump is the end of a warm-up, as where a first layer of zeros hides the gradient.
    """
    near = max(SHORTEST_BLOCK, len(norms) // BLOCKS)
    before, after = norms[:place], norms[place + 1 :]
    usual, later = median(before), median(after)
    if max(norms[place : place + near]) < FAR * later or quantile(after, RARE) < usual:
        return False
    return later > LASTING * usual and median(after[:near]) > LASTING * median(before[-near:])


def warm_up(norms: Sequence[float]) -> int:
    """How many steps at the beginning have another level than any stretch of the second half has."""
    length = max(SHORTEST_BLOCK, math.ceil(len(norms) / MOST_BLOCKS))
    medians = [median(norms[start : start + length]) for start in range(0, len(norms) - length + 1, length)]
    late = medians[len(medians) // 2 :]
    if not late:
        return 0
    low, high = min(late) / SLACK, max(late) * SLACK
    early = medians[: len(medians) // 2]
    return length * next((place for place, level in enumerate(early) if low <= level <= high), len(early))


def drift_of(norms: Sequence[float]) -> float:
    """The level of the last quarter over that of the first, 1 where no two quarters differ by more than noise."""
    length = len(norms) // BLOCKS
    if length < FEWEST_IN_BLOCK:
        return 1.0
    logs = [math.log(norm) for norm in norms]
    means = [fmean(logs[start : start + length]) for start in range(0, length * BLOCKS, length)]
    each = BLOCKS // QUARTERS
    quarters = [means[start : start + each] for start in range(0, BLOCKS, each)]
    noise = math.sqrt(fmean(pvariance(quarter) for quarter in quarters) / (each - 1))
    found = [fmean(quarter) for quarter in quarters]
    change = found[-1] - found[0]
    moved = max(found) - min(found) > TUKEY * noise and abs(change) > math.log(LEAST_DRIFT)
    return math.exp(change) if moved else 1.0


def levels_of(norms: Sequence[float]) -> Levels | None:
    """The two levels that the norms have, None where they have one, or went from one to the other for good.

    They are cut where the variance of the logarithms between the parts is largest (N. Otsu 1979).
    """
    ordered = sorted(norms)
    cut = _otsu(ordered)
    lower, upper = ordered[:cut], ordered[cut:]
    if min(len(lower), len(upper)) < RARE * len(ordered):
        return None
    low, high = median(lower), median(upper)
    third = (high / low) ** (1 / 3)
    between = sum(low * third < norm < high / third for norm in ordered)
    if high < 2.0 * low or between > NO_MANS_LAND * min(len(lower), len(upper)):
        return None
    above = [norm > lower[-1] for norm in norms]
    if sum(a != b for a, b in itertools.pairwise(above)) < LEAST_SWITCHES:
        return None
    return Levels(low, high, len(upper) / len(ordered))


def _otsu(ordered: Sequence[float]) -> int:
    """Where to cut ascending norms in two."""
    logs = [math.log(norm) for norm in ordered]
    total, below = math.fsum(logs), 0.0
    best, cut = 0.0, 0
    for count, value in enumerate(logs[:-1], 1):
        below += value
        distance = below / count - (total - below) / (len(logs) - count)
        if (between := count * (len(logs) - count) * distance * distance) > best:
            best, cut = between, count
    return cut
