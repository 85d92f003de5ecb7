"""The table of a comparison: a row for each rule, as text, for the terminal and for pages."""

from __future__ import annotations

import math
from typing import NamedTuple

from rich import box
from rich.table import Table
from rich.text import Text

from gradclip.experiments.comparison import Comparison
from gradclip.experiments.sign_test import BETTER, WORSE

STYLES = {BETTER: "green", WORSE: "red"}
LARGE, SMALL = 1e4, 1e-3
"""Numbers outside are written with an exponent."""


class ComparisonRow(NamedTuple):
    """What is said of one rule; empty where there is nothing to say."""

    rule: str
    median: str
    spread: str
    training: str
    diverged: str
    clipped: str
    seconds: str
    verdict: str


HEADINGS = ComparisonRow("rule", "median", "min to max", "training", "diverged", "clipped", "s", "against {}")


def rows(comparison: Comparison) -> list[ComparisonRow]:
    """A row for each rule; the verdict is against the first one, which has none."""
    baseline = comparison.baseline
    return [
        ComparisonRow(
            rule=contender.text,
            median=figure(comparison.median(contender.text)),
            spread=between(*comparison.spread(contender.text)),
            training="" if contender.training is None else figure(contender.training),
            diverged=f"{len(contender.diverged)} of {len(contender.runs)}" if contender.diverged else "",
            clipped="" if contender.clipped is None else f"{contender.clipped:.0%}",
            seconds=f"{contender.seconds:.1f}",
            verdict="" if contender is baseline else comparison.verdict(contender.text),
        )
        for contender in comparison.contenders
    ]


def headings(comparison: Comparison) -> ComparisonRow:
    """The headings of the columns."""
    return HEADINGS._replace(verdict=HEADINGS.verdict.format(comparison.baseline.text))


def table(comparison: Comparison) -> Table:
    """The table for a terminal; columns that nobody filled are left out."""
    title = f"{comparison.metric.name}, {comparison.metric.best} is best"
    found = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left")
    cells = rows(comparison)
    kept = filled(cells)
    for number in kept:
        words = number in (0, len(HEADINGS) - 1)
        found.add_column(
            headings(comparison)[number], justify="left" if words else "right", no_wrap=number > 0, overflow="fold"
        )
    for row in cells:
        found.add_row(*(Text(row[number], style=STYLES.get(row[number], "")) for number in kept))
    return found


def filled(cells: list[ComparisonRow]) -> list[int]:
    """The numbers of the columns in which something stands."""
    return [number for number in range(len(HEADINGS)) if any(row[number] for row in cells)]


def diverged_runs(comparison: Comparison) -> list[str]:
    """A line for each rule under which training blew up, with the runs."""
    return [
        f"{contender.text}: {'; '.join(contender.diverged)}"
        for contender in comparison.contenders
        if contender.diverged
    ]


def figure(value: float) -> str:
    """A number in few characters; "diverged" where it is not finite."""
    if not math.isfinite(value):
        return "diverged"
    if value != 0 and not SMALL <= abs(value) < LARGE:
        return f"{value:.2g}"
    return f"{value:.0f}" if value == int(value) else f"{value:.3g}" if abs(value) < 1 else f"{value:.4g}"


def between(low: float, high: float) -> str:
    """The smallest and the largest; empty where there is none."""
    if math.isnan(low):
        return ""
    return figure(low) if figure(low) == figure(high) else f"{figure(low)} to {figure(high)}"
