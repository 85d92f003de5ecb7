"""The charts in numbers: for each a short table, for those who do not see it, or want to read it off."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from gradclip.report.bins import counts, log_edges
from gradclip.report.downsampling import buckets
from gradclip.report.layers import Heat
from gradclip.report.summary import Summary
from gradclip.telemetry.event import Event
from gradclip.verdict.formatting import known, short
from gradclip.verdict.numbers import acted, broken

STRETCHES, BINS = 10, 12
"""So many rows has a chart over the steps, and so many the histogram."""


@dataclass(frozen=True)
class NumbersTable:
    """A table: what stands above each column, and the rows; the first column says what a row is about."""

    title: str
    heading: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def norms_in_numbers(summary: Summary) -> NumbersTable:
    """The norms over stretches of the steps, equally long."""
    heading = ("Steps", "Smallest norm", "Median", "Largest", "Clipped or skipped", "NaN or infinity")
    rows = [
        (
            span(part),
            *three([event.norm_before for event in part if not broken(event)]),
            f"{sum(acted(event) and not broken(event) for event in part):,}",
            f"{sum(map(broken, part)):,}",
        )
        for part in stretches(summary.run)
    ]
    return NumbersTable(f"Norms of {summary.name}", heading, rows)


def losses_in_numbers(summary: Summary) -> NumbersTable:
    """The losses over stretches of the steps that have one."""
    rows = []
    for part in stretches([event for event in summary.run if event.loss is not None]):
        losses = [event.loss for event in part if event.loss is not None]
        finite = [loss for loss in losses if math.isfinite(loss)]
        rows.append((span(part), *three(finite), f"{len(losses) - len(finite):,}"))
    heading = ("Steps", "Lowest loss", "Median", "Highest", "NaN or infinity")
    return NumbersTable(f"Losses of {summary.name}", heading, rows)


def spread_in_numbers(summary: Summary) -> NumbersTable:
    """How many steps have which norm."""
    norms = [event.norm_before for event in summary.run]
    edges = log_edges(norms, BINS)
    spans = [f"{short(10**low)} to {short(10**high)}" for low, high in itertools.pairwise(edges)]
    rows = [(of, f"{number:,}") for of, number in zip(spans, counts(norms, edges), strict=True)] if edges else []
    return NumbersTable(f"How the norms of {summary.name} are spread", ("Norm", "Steps"), rows)


def layers_in_numbers(summary: Summary, heat: Heat) -> NumbersTable:
    """The largest norm of each layer, and when that was."""
    rows = []
    for number, (name, norms) in enumerate(zip(heat.rows, heat.norms, strict=True)):
        finite = [(norm, column) for column, norm in enumerate(norms) if not math.isnan(norm)]
        largest, column = max(finite, default=(math.nan, -1), key=lambda pair: pair[0])
        steps = steps_in_words(*heat.spans[column]) if finite else known(math.nan)
        hurt = sum(row == number for row, _ in heat.broken)
        rows.append((name, known(largest), steps, f"{hurt:,} of {len(norms):,}"))
    heading = ("Layer", "Largest norm", "at steps", "Cells with NaN or infinity")
    return NumbersTable(f"Layers of {summary.name}", heading, rows)


def stretches(run: Sequence[Event]) -> list[list[Event]]:
    """The steps, cut into a few stretches."""
    return [[run[place] for place in part] for part in buckets(len(run), STRETCHES)] if run else []


def span(part: Sequence[Event]) -> str:
    """The steps of a stretch."""
    return steps_in_words(part[0].step, part[-1].step)


def steps_in_words(first: int, last: int) -> str:
    return f"{first:,}" if first == last else f"{first:,} to {last:,}"


def three(values: Sequence[float]) -> tuple[str, str, str]:
    """The smallest, the median and the largest of finite values; dashes where there are none."""
    found = (min(values), median(values), max(values)) if values else (math.nan,) * 3
    low, middle, high = map(known, found)
    return low, middle, high
