"""The table of a comparison: a row for each rule, as text, for the terminal and for pages."""

from __future__ import annotations

import math
from typing import Literal

from rich import box
from rich.table import Table
from rich.text import Text

from gradclip.experiments.comparison import Comparison
from gradclip.experiments.sign_test import BETTER, WORSE

STYLES = {BETTER: "green", WORSE: "red"}
LARGE, SMALL = 1e4, 1e-3
"""Numbers outside are written with an exponent."""


def columns(comparison: Comparison) -> dict[str, list[str]]:
    """The columns by their headings, without empty ones; each has a cell for each rule, and the verdicts are against
    the first, which has ncontender."""
    baseline, contenders = comparison.baseline, comparison.contenders
    every = {
        "rule": [contender.text for contender in contenders],
        "median": [figure(comparison.median(contender.text)) for contender in contenders],
        "min to max": [between(*comparison.spread(contender.text)) for contender in contenders],
        "training": ["" if contender.training is None else figure(contender.training) for contender in contenders],
        "diverged": [
            f"{len(contender.diverged)} of {len(contender.runs)}" if contender.diverged else ""
            for contender in contenders
        ],
        "clipped": ["" if contender.clipped is None else f"{contender.clipped:.0%}" for contender in contenders],
        "s": [f"{contender.seconds:.1f}" for contender in contenders],
        f"against {baseline.text}": [
            "" if contender is baseline else comparison.verdict(contender.text) for contender in contenders
        ],
    }
    return {heading: cells for heading, cells in every.items() if any(cells)}


def table(comparison: Comparison) -> Table:
    """The table for a terminal."""
    title = f"{comparison.metric.name}, {comparison.metric.best} is best"
    found = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left")
    cells = columns(comparison)
    for heading in cells:
        justify: Literal["left", "right"] = "left" if heading.startswith(("rule", "against")) else "right"
        found.add_column(heading, justify=justify, no_wrap=heading != "rule", overflow="fold")
    for row in zip(*cells.values(), strict=True):
        found.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in row))
    return found


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
