"""The best threshold by trial: training again and again, under thresholds that move as long as that lowers the loss.

Norms say which steps are unusual; which threshold trains best they do not say, and the loss does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import median
from typing import NamedTuple

from gradclip.advice.suggestion import CHOICES, suggest, usable
from gradclip.telemetry.event import Event

SERIES = (1.0, 2.0, 3.0, 5.0)
"""The thresholds that are tried, times a power of ten: every second one first. A trial tells no more than a digit."""
MOST = 10
"""How many trainings there are at most, as many as a grid of five decades has."""


class Trial(NamedTuple):
    """A training under a threshold for the global norm, and the loss that it ended at, infinite where it broke."""

    threshold: float
    loss: float


def rule_of(threshold: float) -> str:
    """A threshold for the global norm as the text of a rule."""
    return f"global:{threshold:g}"


def search(train: Callable[[float], float], start: float, most: int = MOST) -> list[Trial]:
    """The trials of a search from near the threshold `start`, in their order; `train` gives the loss under a threshold.

    Thresholds are 1, 3, 10, 30 and so on. They go down from the one nearest to `start` as long as the loss does not
    rise, then up as long as it falls; at last the neighbours of the best are tried, which have a 2 or a 5. A loss that
    is NaN counts as infinite. There are at most `most` trainings, which is 1 or more.

    >>> trials = search(lambda threshold: abs(math.log10(threshold) - 0.7), start=0.8)
    >>> [trial.threshold for trial in trials], best_of(trials).threshold
    ([1.0, 0.3, 3.0, 10.0, 2.0, 5.0], 5.0)
    """
    known: dict[int, float] = {}

    def loss(place: int) -> float:
        if place not in known and len(known) < most:
            found = train(threshold_at(place))
            known[place] = math.inf if math.isnan(found) else found
        return known.get(place, math.inf)

    best = nearest(start)
    lowest = loss(best)
    while len(known) < most and loss(best - 2) <= lowest:
        best, lowest = best - 2, loss(best - 2)
    while len(known) < most and loss(best + 2) < lowest:
        best, lowest = best + 2, loss(best + 2)
    for place in (best - 1, best + 1):
        loss(place)
    return [Trial(threshold_at(place), found) for place, found in known.items()]


def threshold_at(place: int) -> float:
    """The threshold at a place of the series.

    >>> [threshold_at(place) for place in (-2, -1, 0, 1, 2, 3, 4)]
    [0.3, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0]
    """
    decade, digit = divmod(place, len(SERIES))
    return float(f"{SERIES[digit]:g}e{decade}")


def nearest(threshold: float) -> int:
    """The place of a 1 or a 3 that is nearest to a threshold by its logarithm.

    >>> threshold_at(nearest(0.17)), threshold_at(nearest(0.18))
    (0.1, 0.3)
    """
    decade = math.floor(math.log10(threshold))
    places = [len(SERIES) * decade + step for step in (0, 2, 4)]
    return min(places, key=lambda place: abs(math.log(threshold / threshold_at(place))))


def best_of(trials: Sequence[Trial]) -> Trial:
    """The trial with the lowest loss, and of equal ones that with the largest threshold, which clips least."""
    return min(trials, key=lambda trial: (trial.loss, -trial.threshold))


def start_from(run: Sequence[Event]) -> float | None:
    """Where a search begins: at the threshold that the norms of a run suggest; None where no norm is usable.

    A level that moves suggests that of the end: the median is where a search begins then. A few norms are mostly those
    of a training that broke, of which the smallest is the last that was well: it begins below that.
    """
    norms, found = usable(run), suggest(run)
    if not norms:
        return None
    if found.threshold is None:
        return CHOICES["runaway"].factor * min(norms)
    return median(norms) if found.kind == "drifting" else found.threshold
