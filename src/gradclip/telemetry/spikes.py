"""What is a spike, and a sink that hears of spikes only."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from statistics import median

from gradclip.errors import shown
from gradclip.telemetry.event import Event

FEW = 30
"""With fewer finite steps nobody judges: of a share of 5 % it may well have seen no step, or two."""

SPIKE = 10.0
"""A norm of more than so many usual ones is a spike. Ordinary noise does not come there: for a log-normal norm with a
coefficient of variation of 0.5 it is the 5-sigma event, less than one step in a million. A loss is one that is so many
median absolute deviations above the median, which are 6.7 standard deviations of a normal one."""

AROUND = 100
"""The usual norm is the median over a block of so many steps: long enough that a burst of bad steps does not move it,
short enough to follow a norm that falls as training goes on."""


class spikes:  # noqa: N801  # a sink reads as a function: Telemetry(spikes(print))
    """Calls `then(event)` for each step whose norm or loss is a spike, or is not finite.

    A norm before clipping is one above 10 times the median of the last 100 finite ones; a loss, where the events have
    one, above their median by more than 10 median absolute deviations. Nothing is one until there were 30.

    >>> told = []
    >>> sink = spikes(told.append)
    >>> for step in range(50):
    ...     sink(Event(step, "", "cpu", 500.0 if step == 40 else 5.0, 1.0, 1.0, 0.2, True))
    >>> [event.step for event in told]
    [40]
    """

    def __init__(self, then: Callable[[Event], object]) -> None:
        if not callable(then):
            raise TypeError(f"then is a function of an event, got {shown(then)}: write spikes(print)")
        self._then = then
        self._norms: deque[float] = deque(maxlen=AROUND)
        self._losses: deque[float] = deque(maxlen=AROUND)

    def __call__(self, event: Event) -> None:
        high = _is_high(event.norm_before, self._norms, _times_the_usual)
        if event.loss is not None:
            high |= _is_high(event.loss, self._losses, _deviations_above)
        if high:
            self._then(event)

    def __repr__(self) -> str:
        return f"spikes({getattr(self._then, '__name__', self._then)!s})"


def _is_high(value: float, before: deque[float], above: Callable[[float, Sequence[float]], bool]) -> bool:
    """Whether a number is a spike among those `before`, to which it is added if it is finite."""
    if not math.isfinite(value):
        return True
    high = len(before) >= FEW and above(value, before)
    before.append(value)
    return high


def _times_the_usual(norm: float, norms: Sequence[float]) -> bool:
    usual = median(norms)
    return norm > SPIKE * usual > 0.0


def _deviations_above(loss: float, losses: Sequence[float]) -> bool:
    usual = median(losses)
    deviation = median(abs(other - usual) for other in losses)
    return loss - usual > SPIKE * deviation > 0.0
