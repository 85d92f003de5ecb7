"""The picture of the profiles: a row for each method, a column for each stream."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from gradclip.experiments.showing.plots import BLUE, ORANGE, VERMILION, save_small
from profiles import FIRST_DRAWN, LEVEL, SPIKE, STEPS, Profile, Values

INPUT, THRESHOLD, OUTPUT, SKIPPED = "#C4C4C4", ORANGE, BLUE, VERMILION

FLOOR, CEILING = LEVEL / 16, 5 * SPIKE * LEVEL
ROW, COLUMN, MARGIN = 0.85, 1.6, 1.9
"""The height of a row, the width of a column and that of the names, in inches."""
WIDEST = 22
SPECIAL = 3.6

Profiles = Mapping[str, Mapping[str, Profile]]


def save_profiles(found: Profiles, path: Path) -> None:
    """Draw the profiles of all methods into a PNG file of few colours."""
    save_small(draw(found), path, 110)


def draw(found: Profiles) -> Figure:
    """A row of panels for each method; those that do the same have one row."""
    rows = same_profiles(found)
    streams = list(next(iter(found.values())))
    figure = Figure(figsize=(MARGIN + COLUMN * len(streams), ROW * (len(rows) + 1)), layout="constrained")
    panels = figure.subplots(len(rows), len(streams), sharex=True, sharey=True, squeeze=False)
    for names, row in zip(rows, panels, strict=True):
        row[0].set_ylabel("\n".join(_lines(names)), rotation=0, ha="right", va="center", fontsize=9)
        for stream, axes in zip(streams, row, strict=True):
            _panel(axes, found[names[0]][stream])
        row[-1].tick_params(labelright=True, pad=1)
    for stream, axes in zip(streams, panels[0], strict=True):
        axes.set_title(stream, fontsize=10)
    _legend(figure)
    return figure


def same_profiles(found: Profiles) -> list[list[str]]:
    """The names of the methods, those with equal profiles together."""
    rows: list[list[str]] = []
    for name, profiled in found.items():
        same = next((row for row in rows if _equal(found[row[0]], profiled)), None)
        if same is None:
            rows.append([name])
        else:
            same.append(name)
    return rows


def _equal(first: Mapping[str, Profile], other: Mapping[str, Profile]) -> bool:
    pairs = [(first[name], other[name]) for name in first]
    return all(np.allclose(a, b, rtol=1e-9, equal_nan=True) for a, b in pairs)


def _lines(names: list[str]) -> list[str]:
    return [line for name in names for line in textwrap.wrap(name, WIDEST)]


def _panel(axes: Axes, profiled: Profile) -> None:
    """What went in as a grey line, the threshold as an orange one, what came out as blue dots."""
    steps = np.arange(FIRST_DRAWN, STEPS)
    norms, thresholds, outputs = (series[FIRST_DRAWN:STEPS] for series in profiled)
    axes.plot(steps, _drawable(norms), color=INPUT, linewidth=1.6)
    axes.plot(steps, _drawable(outputs), ".", color=OUTPUT, markersize=3.4)
    axes.plot(steps, _drawable(thresholds), "-", color=THRESHOLD, linewidth=0.8, marker=".", markersize=0.8)
    _marked(axes, steps[np.isfinite(norms) & (norms > 0) & (outputs == 0)], FLOOR * 1.7, "x", SKIPPED)
    _marked(axes, steps[norms == 0], FLOOR * 1.7, ".", INPUT)
    _marked(axes, steps[~np.isfinite(norms)], CEILING / 1.8, "v", "black")
    axes.set(yscale="log", ylim=(FLOOR, CEILING), xlim=(FIRST_DRAWN, STEPS), xticks=[])
    axes.set_yticks([LEVEL, 10 * LEVEL], ["x 1", "x 10"], fontsize=7, color="#777777")
    axes.minorticks_off()
    axes.tick_params(left=False, labelleft=False, right=False)
    for side in axes.spines.values():
        side.set_color("#DDDDDD")


def _marked(axes: Axes, steps: Values, height: float, marker: str, colour: str) -> None:
    axes.plot(steps, np.full(len(steps), height), marker, color=colour, markersize=SPECIAL)


def _drawable(values: Values) -> Values:
    """`values` with gaps where a log axis has no place."""
    return np.where(np.isfinite(values) & (values > 0), values, np.nan)


def _legend(figure: Figure) -> None:
    handles = [
        Line2D([], [], color=INPUT, linewidth=2, label="norm before"),
        Line2D([], [], color=THRESHOLD, linewidth=2, label="threshold"),
        Line2D([], [], color=OUTPUT, marker=".", linestyle="", label="norm after"),
        Line2D([], [], color=SKIPPED, marker="x", linestyle="", label="step skipped"),
        Line2D([], [], color="black", marker="v", linestyle="", label="NaN or infinity"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), frameon=False, fontsize=9)
