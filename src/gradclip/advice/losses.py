"""The losses of a run, and where it began and ended: norms say what clipping does, only the loss what it is worth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from gradclip.advice.past import MOST
from gradclip.telemetry.event import Event

PART = 10
"""The loss of the beginning and that of the end are means over one of so many equal parts of the steps."""


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
    losses = losses_of(run)
    return mean_loss(losses[len(losses) - part_of(losses) :])


def mean_loss(losses: Sequence[float]) -> float | None:
    """The mean of losses: infinite where one is not finite, None of none."""
    if not losses:
        return None
    return fmean(losses) if all(map(math.isfinite, losses)) else math.inf
