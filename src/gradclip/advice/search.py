"""The best threshold by trial: training again and again, under thresholds that move as long as that lowers the loss.

Norms say which steps are unusual; which threshold trains best they do not say, and the loss does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import fmean, median
from typing import NamedTuple

from gradclip.advice.suggest import CHOICES, rounded, suggest, usable
from gradclip.telemetry.event import Event

COARSE, FINE = math.sqrt(10.0), 10.0**0.25
"""The factors by which a threshold moves, first and last."""
MOST = 10
"""How many trainings there are at most, as many as a grid of five decades has."""
END = 10
"""The loss of a run is that of the last tenth of its steps."""


class Trial(NamedTuple):
    """A training under a threshold for the global norm, and the loss that it ended at, infinite where it broke."""

    threshold: float
    loss: float


def rule_of(threshold: float) -> str:
    """A threshold for the global norm as the text of a rule."""
    return f"global:{threshold:g}"


def search(train: Callable[[float], float], start: float, most: int = MOST) -> list[Trial]:
    """The trials of a search from the threshold `start`, in their order; `train` gives the loss under a threshold.

    The threshold goes down by half a decade as long as the loss does not rise, then up as long as it falls, and at last
    a quarter of a decade to both sides of the best. A loss that is NaN counts as infinite. There are at most `most`
    trainings, which is 1 or more.

    >>> trials = search(lambda threshold: abs(math.log10(threshold) - 0.4), start=1.0)
    >>> [trial.threshold for trial in trials], best_of(trials).threshold
    ([1.0, 0.316, 3.16, 10.0, 1.78, 5.62], 3.16)
    """
    known: dict[float, float] = {}

    def loss(threshold: float) -> float:
        threshold = rounded(threshold)
        if threshold not in known and len(known) < most:
            found = train(threshold)
            known[threshold] = math.inf if math.isnan(found) else found
        return known.get(threshold, math.inf)

    best, lowest = start, loss(start)
    while len(known) < most and loss(best / COARSE) <= lowest:
        best, lowest = best / COARSE, loss(best / COARSE)
    while len(known) < most and loss(best * COARSE) < lowest:
        best, lowest = best * COARSE, loss(best * COARSE)
    for factor in (1.0 / FINE, FINE):
        loss(best * factor)
    return [Trial(threshold, found) for threshold, found in known.items()]


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


def final_loss(run: Sequence[Event]) -> float | None:
    """The mean loss of the last tenth of the steps that have one: None of none, infinite where one is not finite."""
    losses = [event.loss for event in run if event.loss is not None]
    last = losses[-math.ceil(len(losses) / END) :] if losses else []
    if not last:
        return None
    return fmean(last) if all(map(math.isfinite, last)) else math.inf
