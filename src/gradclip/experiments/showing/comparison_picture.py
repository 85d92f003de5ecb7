"""The picture of a comparison: the curves of each rule over its seeds, and the metric of every run."""

from __future__ import annotations

import math
import statistics
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

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
DPI = 100


def save_picture(comparison: Comparison, path: Path) -> Path:
    """Draw into the PNG file `path`."""
    return save_small(draw(comparison), path, DPI)


def draw(comparison: Comparison) -> Figure:
    """On the left the curves, if there are any, on the right a row of dots for each rule."""
    curves = any(run.outcome.curve for axis in comparison.contenders for run in axis.runs)
    height = max(3.2, 1.4 + 0.32 * len(comparison.contenders))
    figure = Figure(figsize=(10, height) if curves else (6, height), layout="constrained")
    axes = list(figure.subplots(1, 2, squeeze=False)[0]) if curves else [figure.subplots()]
    if curves:
        _curves(axes[0], comparison)
    _metrics(axes[-1], comparison)
    figure.suptitle(f"{comparison.title}; {len(comparison.seeds)} seeds", fontsize=11)
    for axis in axes:
        light_frame(axis)
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
    axes.set(
        ylim=(len(comparison.contenders) - 0.4, -0.6),
        xlabel=f"{comparison.metric.name} ({comparison.metric.best} is best)",
    )
