"""The tables of a comparison: a row for each rule, as text, for the terminal and for pages."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from rich import box
from rich.table import Table
from rich.text import Text

from gradclip.experiments.comparison import Comparison
from gradclip.experiments.outcome import Metric
from gradclip.experiments.sign_test import BETTER, WORSE

STYLES = {BETTER: "green", WORSE: "red"}
LARGE, SMALL = 1e4, 1e-3
"""Numbers outside are written with an exponent."""


def columns(comparison: Comparison) -> dict[str, list[str]]:
    """The columns by their headings, without empty ones; each has a cell for each rule, and the verdicts are against
    the first, which has none."""
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
        "clipped": ["" if contender.clipped is None else share(contender.clipped) for contender in contenders],
        "s": [f"{contender.seconds:.{1 if contender.seconds < 100 else 0}f}" for contender in contenders],
        f"against {baseline.text}": [
            "" if contender is baseline else comparison.finding(contender.text) for contender in contenders
        ],
    }
    return without_empty(every)


def differences(comparison: Comparison) -> dict[str, list[str]]:
    """The columns of how far each other rule lies from the first, seed by seed; without any where there is no other."""
    first, metric = comparison.baseline.text, comparison.metric
    others = [contender.text for contender in comparison.contenders[1:]]
    found = [comparison.difference(text) for text in others]
    sure = found[0].confidence if found else 0.0
    every = {
        "rule": others,
        "difference, %" if metric.relative else "difference": [signed(one.median, metric) for one in found],
        f"{100 * sure:.3g} % interval": [
            f"{signed(one.low, metric)} to {signed(one.high, metric)}" if sure else "" for one in found
        ],
        "wins": [f"{comparison.wins(text, first)} of {len(comparison.seeds)}" for text in others],
        "chance": [f"{comparison.chance(text):.2g}" for text in others],
        "corrected": [f"{comparison.corrected_chance(text):.2g}" if others[1:] else "" for text in others],
        f"within {margin_of(metric)}": [
            "" if metric.margin is None else "yes" if comparison.equal(text) else "no" for text in others
        ],
    }
    return without_empty(every)


def without_empty(every: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """The columns that say something."""
    return {heading: cells for heading, cells in every.items() if any(cells)}


def tables(comparison: Comparison) -> list[Table]:
    """The tables for a terminal: the rules, and by how much they differ from the first."""
    metric, first = comparison.metric, comparison.baseline.text
    found = [table(f"{metric.name}, {metric.best} is best", columns(comparison))]
    if beside := differences(comparison):
        corrected = (
            f"; chances are corrected for {len(comparison.contenders) - 1} rules" if "corrected" in beside else ""
        )
        found.append(table(f"difference from {first}, seed by seed{share_of(metric)}{corrected}", beside))
    return found


def table(title: str, cells: Mapping[str, list[str]]) -> Table:
    """A table for a terminal, of words in the first column and in that of the verdicts, and of numbers."""
    found = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left")
    for heading in cells:
        words = heading.startswith(("rule", "against"))
        justify: Literal["left", "right"] = "left" if words else "right"
        found.add_column(heading, justify=justify, no_wrap=not words, overflow="fold")
    for row in zip(*cells.values(), strict=True):
        found.add_row(*(Text(cell, style=style_of(cell)) for cell in row))
    return found


def style_of(cell: str) -> str:
    """The colour of a verdict."""
    return next((style for verdict, style in STYLES.items() if cell.startswith(verdict)), "")


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


def signed(difference: float, metric: Metric) -> str:
    """A difference with its sign; in percent where differences are shares."""
    value = 100 * difference if metric.relative else difference
    text = figure(value) if math.isfinite(value) else "inf" if value > 0 else "-inf"
    return f"+{text}" if value > 0 else text


def margin_of(metric: Metric) -> str:
    """The margin with its unit where that is percent; empty where there is none."""
    if metric.margin is None:
        return ""
    return signed(metric.margin, metric).removeprefix("+") + (" %" if metric.relative else "")


def share(value: float) -> str:
    """A share in percent, never rounded to none or to all.

    >>> share(0.0), share(0.002), share(0.42), share(0.999), share(1.0)
    ('0%', '<1%', '42%', '>99%', '100%')
    """
    text = f"{value:.0%}"
    return "<1%" if text == "0%" and value > 0.0 else ">99%" if text == "100%" and value < 1.0 else text


def share_of(metric: Metric) -> str:
    """What differences are percents of, where they are."""
    return ", in percent of the better of the two runs" if metric.relative else ""


def between(low: float, high: float) -> str:
    """The smallest and the largest; empty where there is none."""
    if math.isnan(low):
        return ""
    return figure(low) if figure(low) == figure(high) else f"{figure(low)} to {figure(high)}"
