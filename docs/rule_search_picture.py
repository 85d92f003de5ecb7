"""The picture of the search: which fixed threshold is best in each setting, and what the others cost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from gradclip.experiments.showing.plots import BLACK, save_small
from rule_search import GRID, OPTIMIZERS, Record, costs_of_grid

SHADES = ("#FFFFFF", "#DCE9F2", "#A9CBE2", "#5FA2CC", "#1F6EA6", "#0B3A5E")
EDGES = (1.0, 2.0, 4.0, 8.0, 16.0)
"""From so many margins on a cell is darker."""
NAMES = {"sgd": "SGD, momentum 0.9", "adamw": "AdamW"}


def save_grid(record: Record, tasks: list[str], path: Path) -> None:
    """Draw the grid of all settings into a PNG file."""
    save_small(draw(record, tasks), path, 110)


def draw(record: Record, tasks: list[str]) -> Figure:
    """A panel for each optimizer: a row for each setting, a column for each threshold."""
    figure = Figure(figsize=(10.0, 0.8 + 0.22 * 3 * len(tasks)), layout="constrained")
    panels = figure.subplots(1, len(OPTIMIZERS), sharey=True)
    for optimizer, axes in zip(OPTIMIZERS, panels, strict=True):
        _panel(axes, record, tasks, optimizer)
    panels[0].invert_yaxis()
    panels[0].set_ylabel("task, and its learning rate over the tuned one")
    return figure


def _panel(axes: Axes, record: Record, tasks: list[str], optimizer: str) -> None:
    found = [(place, above) for place, above in costs_of_grid(record, tasks) if place[2] == optimizer]
    shades = np.array([[np.searchsorted(EDGES, above[rule], side="right") for rule in GRID] for _, above in found])
    axes.pcolormesh(shades, cmap=ListedColormap(SHADES), vmin=-0.5, vmax=len(EDGES) + 0.5, edgecolors="#E6E6E6")
    for row, (_, above) in enumerate(found):
        best = [column for column, rule in enumerate(GRID) if above[rule] == 0.0]
        axes.plot(np.array(best) + 0.5, np.full(len(best), row + 0.5), ".", color=BLACK, markersize=4)
    axes.set_title(NAMES[optimizer], fontsize=10)
    axes.set_xticks(np.arange(len(GRID)) + 0.5, [rule.removeprefix("global:") for rule in GRID], fontsize=8)
    axes.set_yticks(np.arange(len(found)) + 0.5, [f"{place[1]}  {place[3]:>3}" for place, _ in found], fontsize=8)
    axes.set_xlabel("threshold of the global norm")
    axes.tick_params(length=0)
