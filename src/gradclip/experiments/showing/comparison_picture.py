"""The picture of a comparison: the curves of each rule over its seeds, every metric, and how far the rules lie from the
first."""

from __future__ import annotations

import math
import statistics
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import SymmetricalLogLocator

from gradclip.experiments.comparison import Comparison, Contender
from gradclip.experiments.showing.plots import (
    BLACK,
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    light_frame,
    logarithmic,
    save_small,
)

MORE_COLOURS = ("#8C564B", "#7F7F7F", "#B5A500", "#6A51A3", "#8B0000", "#00A0A0")
COLOURS = (BLACK, BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, *MORE_COLOURS)
DASHES = ("-", "--", "-.", ":")
DECADES = 0.5
"""Metrics above 0 that span more factors of ten than this are drawn on a logarithmic axis."""
DIGITS = (1, 3)
WIDE = 30.0
"""A difference of so many times the median one is drawn on a scale that is logarithmic far out."""
TICKS = 6
"""As many find room on such a scale."""
BAND = "#7F7F7F"
DPI = 100
PANELS = {1: 6.0, 2: 10.0, 3: 13.0}
"""The width of a picture, by how many it has beside each other."""


def save_picture(comparison: Comparison, path: Path) -> Path:
    """Draw into the PNG file `path`."""
    return save_small(draw(comparison), path, DPI)


def draw(comparison: Comparison) -> Figure:
    """On the left the curves, if there are any, then a row of dots for each rule, and beside it how far each other rule
    lies from the first, if there are others."""
    curves = any(run.outcome.curve for axis in comparison.contenders for run in axis.runs)
    panels = [_curves] * curves + [_metrics] + [_differences] * (len(comparison.contenders) > 1)
    height = max(3.2, 1.4 + 0.32 * len(comparison.contenders))
    figure = Figure(figsize=(PANELS[len(panels)], height), layout="constrained")
    for panel, axes in zip(panels, figure.subplots(1, len(panels), squeeze=False)[0], strict=True):
        panel(axes, comparison)
        light_frame(axes)
    figure.suptitle(f"{comparison.title}; {len(comparison.seeds)} seeds", fontsize=11)
    return figure


def _curves(axes: Axes, comparison: Comparison) -> None:
    """For each rule the median over the seeds as a line, and their range as a band."""
    metric = comparison.metric
    for number, contender in enumerate(comparison.contenders):
        points = _by_place(contender)
        colour, dashes = COLOURS[number % len(COLOURS)], DASHES[number // len(COLOURS) % len(DASHES)]
        places = sorted(points)
        medians = [statistics.median(points[x]) for x in places]
        alone = "o" if len(places) == 1 else ""  # of one point no line is seen
        axes.plot(places, medians, dashes, marker=alone, color=colour, linewidth=1.5)
        lows, highs = [min(points[x]) for x in places], [max(points[x]) for x in places]
        axes.fill_between(places, lows, highs, color=colour, alpha=0.1, linewidth=0)
    axes.set(xlabel=metric.x, ylabel=metric.y)
    for name in metric.log:
        logarithmic(axes, name, DIGITS)


def _by_place(contender: Contender) -> dict[float, list[float]]:
    """The finite heights of all curves at each place."""
    found: dict[float, list[float]] = {}
    for run in contender.runs:
        for x, y in run.outcome.curve:
            if math.isfinite(y):
                found.setdefault(x, []).append(y)
    return found


def _metrics(axes: Axes, comparison: Comparison) -> None:
    """A dot for each run and a bar at the median; runs without a number are crosses at the bad edge."""
    finite = [value for contender in comparison.contenders for value in contender.metrics if math.isfinite(value)]
    positive = bool(finite) and min(finite) > 0
    if positive and math.log10(max(finite) / min(finite)) > DECADES:
        logarithmic(axes, "x", DIGITS)
    edge = 1.0 if comparison.metric.best == "lowest" else 0.0
    for number, contender in enumerate(comparison.contenders):
        colour = COLOURS[number % len(COLOURS)]
        shown = [value for value in contender.metrics if math.isfinite(value)]
        axes.plot(shown, [number] * len(shown), "o", color=colour, alpha=0.6, markersize=5, markeredgewidth=0)
        if len(shown) < len(contender.metrics):
            axes.plot([edge], [number], "X", color=colour, transform=axes.get_yaxis_transform(), clip_on=False)
        if math.isfinite(median := comparison.median(contender.text)):
            axes.plot([median], [number], "|", color=colour, markersize=15, markeredgewidth=2)
    axes.set_yticks(
        range(len(comparison.contenders)), [contender.text for contender in comparison.contenders], fontsize=9
    )
    for label, number in zip(axes.get_yticklabels(), range(len(comparison.contenders)), strict=True):
        label.set_color(COLOURS[number % len(COLOURS)])
    axes.set(ylim=_rows(comparison), xlabel=f"{comparison.metric.name} ({comparison.metric.best} is best)")


def _differences(axes: Axes, comparison: Comparison) -> None:
    """The median difference of each rule from the first and its interval, in the rows of the metrics; the margin is a
    band. What is infinite lies on the edge, as a triangle."""
    metric, first = comparison.metric, comparison.baseline.text
    unit = 100.0 if metric.relative else 1.0
    found = [comparison.difference(contender.text) for contender in comparison.contenders]
    ends = [unit * end for one in found for end in (one.low, one.median, one.high)]
    reach = _scaled(axes, ends, unit * (metric.margin or 0.0))
    axes.axvline(0.0, color=COLOURS[0], linewidth=1)
    if metric.margin is not None:
        axes.axvspan(-unit * metric.margin, unit * metric.margin, color=BAND, alpha=0.15, linewidth=0)
    for number, one in list(enumerate(found))[1:]:
        colour = COLOURS[number % len(COLOURS)]
        low, median, high = (min(max(unit * end, -reach), reach) for end in (one.low, one.median, one.high))
        axes.plot([low, high], [number, number], color=colour, linewidth=2)
        axes.plot([median], [number], "o", color=colour, markersize=6)
        for end, mark in ((one.low, "<"), (one.high, ">")):
            if math.isinf(end):
                axes.plot([math.copysign(reach, end)], [number], mark, color=colour, markersize=8, clip_on=False)
    axes.set_yticks(range(len(found)), [""] * len(found))
    sure = f"{100 * found[-1].confidence:.3g} % intervals"
    axes.set(ylim=_rows(comparison), xlabel=f"difference from {first}{', %' * metric.relative} ({sure})")


def _scaled(axes: Axes, ends: list[float], margin: float) -> float:
    """Give the axis of differences its limits, logarithmic far out where a few are wide; where what is infinite is
    drawn, which is the reach of the others."""
    sizes = sorted(abs(end) for end in ends if end and math.isfinite(end))
    reach = 1.1 * max([*sizes, margin], default=0.0) or 1.0
    nearest, room = 0.1 * reach, 1.1
    if sizes and sizes[-1] > WIDE * statistics.median(sizes):
        nearest, room = statistics.median(sizes), 2.0
        axes.set_xscale("symlog", linthresh=nearest)
        few = SymmetricalLogLocator(linthresh=nearest, base=10.0)
        few.set_params(numticks=TICKS)
        axes.xaxis.set_major_locator(few)
    lowest, highest = (min(max(end, -reach), reach) for end in (min(ends), max(ends)))
    axes.set_xlim(min(room * lowest, -nearest), max(room * highest, nearest))
    return reach


def _rows(comparison: Comparison) -> tuple[float, float]:
    """Where the rows of the rules begin and end: the first is on top."""
    return len(comparison.contenders) - 0.4, -0.6
