"""The worst steps and the worst parameters of a run."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from gradclip.telemetry.event import Event
from gradclip.verdict.formatting import short
from gradclip.verdict.numbers import broken

MOST = 10
MOST_BROKEN = 3
"""So many non-finite steps are listed: they look alike, and the large finite ones are to be seen too."""


@dataclass(frozen=True)
class WorstStep:
    """A step, how often its norm is the usual one around it (NaN where that is not known), and what became of it."""

    step: int
    norm_before: float
    ratio: float
    threshold: float
    outcome: str
    tensors: tuple[str, ...]
    """The non-finite tensors, or the one with the largest norm; none where the run does not tell."""


@dataclass(frozen=True)
class WorstParameter:
    """A tensor: its largest norm and when that was, its median norm, and on how many steps it was not finite.

    The norms are NaN where the run tells only which tensors were not finite.
    """

    name: str
    largest: float
    at_step: int | None
    median: float
    nonfinite: int


def worst_steps(events: Sequence[Event], usual: Sequence[float]) -> list[WorstStep]:
    """The first 3 non-finite steps, then the 10 with the largest norms."""
    pairs = list(zip(events, usual, strict=True))
    bad = [pair for pair in pairs if broken(pair[0])][:MOST_BROKEN]
    finite = [pair for pair in pairs if not broken(pair[0]) and pair[0].norm_before > 0]
    large = sorted(finite, key=lambda pair: -pair[0].norm_before)[:MOST]
    return [
        WorstStep(
            event.step,
            event.norm_before,
            event.norm_before / usual_norm,
            event.threshold,
            outcome(event),
            blamed(event),
        )
        for event, usual_norm in (*bad, *large)
    ]


def outcome(event: Event) -> str:
    """What became of a step, in words."""
    if event.skipped:
        return "skipped"
    if broken(event) and not math.isfinite(event.norm_after):
        return "went into the optimizer"
    if broken(event) or event.clipped:
        return f"clipped to {short(event.norm_after)}"
    return "let through"


def blamed(event: Event) -> tuple[str, ...]:
    """The tensors to look at."""
    if broken(event) or not event.tensors:
        return event.offenders
    return (max(event.tensors, key=event.tensors.__getitem__),)


def worst_parameters(events: Sequence[Event]) -> list[WorstParameter]:
    """At most 10 tensors: those that were not finite most often, then those with the largest norms."""
    hurt = Counter(name for event in events for name in hurt_in(event))
    tops: dict[str, tuple[float, int]] = {}
    for event in events:
        for name, norm in (event.tensors or {}).items():
            if norm < math.inf and norm > tops.get(name, (-1.0, 0))[0]:
                tops[name] = (norm, event.step)
    names = sorted({**tops, **hurt}, key=lambda name: (-hurt[name], -tops.get(name, (0.0, 0))[0]))[:MOST]
    return [worst_parameter(name, events, tops.get(name), hurt[name]) for name in names]


def hurt_in(event: Event) -> set[str]:
    """The tensors that were not finite, as far as the event tells."""
    if not broken(event):
        return set()
    return {*event.offenders, *(name for name, norm in (event.tensors or {}).items() if not math.isfinite(norm))}


def worst_parameter(name: str, events: Sequence[Event], top: tuple[float, int] | None, hurt: int) -> WorstParameter:
    """One row about the tensor `name`."""
    norms = [norm for event in events if math.isfinite(norm := (event.tensors or {}).get(name, math.nan))]
    largest, at_step = top or (math.nan, None)
    return WorstParameter(name, largest, at_step, median(norms) if norms else math.nan, hurt)
