"""The picture of the demo: loss and gradient norm against step, without and with clipping, the threshold drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import geometric_mean
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gradclip.experiments.demo import Demo
from gradclip.experiments.showing.plots import BLUE, GREEN, VERMILION, light_frame, logarithmic, save_png
from gradclip.experiments.training import char_rnn, exploding_net
from gradclip.experiments.training.training_run import TrainingRun, TrainingStep, runs_of

NAME = "gradclip-demo.png"
CEILING = 1e9
"""Larger numbers of the seed experiment are drawn here, so that the clipped runs can be seen as well."""
CEILING_WORDS = f"$10^{round(math.log10(CEILING))}$"

BINS_PER_DECADE = 20
HEADROOM = 8
"""How far the loss of the character RNN is kept below the legend."""


class Look(NamedTuple):
    """How the runs of one kind of clipping are drawn."""

    clipping: str
    label: str
    colour: str
    dashes: str


SEED_LOOKS = (
    Look(exploding_net.WITHOUT, "weights not clipped", VERMILION, "--"),
    Look(exploding_net.WITH, "weights clipped", BLUE, "-"),
)
CHAR_LOOKS = (
    Look(char_rnn.WITHOUT.clipping, "not clipped", VERMILION, "--"),
    Look(char_rnn.BY_VALUE.clipping, f"by {char_rnn.BY_VALUE.clipping}", GREEN, "-."),
    Look(char_rnn.BY_NORM.clipping, f"by {char_rnn.BY_NORM.clipping}", BLUE, "-"),
)


def save_picture(demo: Demo, folder: Path) -> Path:
    """Draw the demo into `folder` and give the path of the PNG file."""
    return save_png(draw(demo), folder / NAME, dpi=150)


def draw(demo: Demo) -> Figure:
    """Two columns of panels, an experiment each: the loss above, the gradient norm below."""
    figure = Figure(figsize=(11, 7.5), layout="constrained")
    ((seed_loss, char_loss), (seed_norm, char_norm)) = figure.subplots(2, 2, sharex="col")
    seeds, language = demo.exploding.runs, demo.language.runs
    for look in SEED_LOOKS:
        _each_run(seed_loss, runs_of(seeds, look.clipping), look, "loss")
        _each_run(seed_norm, runs_of(seeds, look.clipping), look, "norm_before")
    for look in CHAR_LOOKS:
        _all_runs(char_loss, runs_of(language, look.clipping), look, "loss")
        _all_runs(char_norm, runs_of(language, look.clipping), look, "norm_before")
    _threshold(seed_norm, exploding_net.THRESHOLD, f"threshold {exploding_net.THRESHOLD:g}, for each tensor")
    _threshold(char_norm, char_rnn.NORM, f"threshold of the norm, {char_rnn.NORM:g}")
    _frame(demo, seed_loss, seed_norm, char_loss, char_norm)
    return figure


def _each_run(axes: Axes, runs: Sequence[TrainingRun], look: Look, field: str) -> None:
    """A line for each seed; where the loss stops being finite it ends in a cross at the top."""
    for number, run in enumerate(runs):
        values = [getattr(step, field) if math.isfinite(step.loss) else CEILING for step in run.steps]
        label = look.label if number == 0 else None
        places, heights = [step.step for step in run.steps], [min(value, CEILING) for value in values]
        axes.plot(places, heights, look.dashes, color=look.colour, linewidth=1.2, alpha=0.8, label=label)
    if ends := [run.broke_at for run in runs if run.broke_at is not None]:
        axes.plot(ends, [CEILING] * len(ends), "X", markersize=10, color=look.colour, markeredgecolor="white")
        axes.annotate(
            "infinite or NaN", (max(ends), CEILING), (9, 0), textcoords="offset points", va="center", fontsize=9
        )


def _all_runs(axes: Axes, runs: Sequence[TrainingRun], look: Look, field: str) -> None:
    """The geometric mean of all seeds as a line, their range as a band, in bins that are even on a log axis."""
    places, means, lows, highs = zip(*_bins([step for run in runs for step in run.steps], field), strict=True)
    axes.fill_between(places, lows, highs, color=look.colour, alpha=0.18, linewidth=0)
    axes.plot(places, means, look.dashes, color=look.colour, linewidth=1.6, label=look.label)


def _bins(steps: Sequence[TrainingStep], field: str) -> list[tuple[float, float, float, float]]:
    """For each bin its place, and the geometric mean, smallest and largest of its finite positive values."""
    values: dict[int, list[tuple[int, float]]] = {}
    for step in steps:
        place = round(BINS_PER_DECADE * math.log10(step.step))
        if 0 < getattr(step, field) < math.inf:
            values.setdefault(place, []).append((step.step, getattr(step, field)))
    columns = [tuple(zip(*values[place], strict=True)) for place in sorted(values)]
    return [(geometric_mean(at), geometric_mean(found), min(found), max(found)) for at, found in columns]


def _threshold(axes: Axes, value: float, words: str) -> None:
    axes.axhline(value, color="black", linewidth=1.3, linestyle=":")
    axes.annotate(words, (0.02, value), (0, -4), axes.get_yaxis_transform(), "offset points", va="top", fontsize=9)


def _frame(demo: Demo, seed_loss: Axes, seed_norm: Axes, char_loss: Axes, char_norm: Axes) -> None:
    """Scales, titles, labels and legends."""
    for axes in (seed_loss, seed_norm, char_loss, char_norm):
        axes.set(xscale="log", yscale="log")
        axes.xaxis.set_major_formatter("{x:g}")
        light_frame(axes)
    for axes in (char_loss, char_norm):
        logarithmic(axes, "y", (1, 2, 5))
    char_norm.set_ylim(bottom=char_rnn.NORM / 2)
    char_loss.set_ylim(top=HEADROOM * char_loss.get_ylim()[1])
    seed_loss.set(ylim=(0.02, 5 * CEILING), ylabel="loss of the batch (squared error)")
    seed_norm.set(ylim=(0.02, 5 * CEILING), ylabel="gradient norm before clipping", xlabel="step")
    char_loss.set(ylabel="loss of the batch (bits per character)")
    char_norm.set(ylabel="gradient norm before clipping", xlabel="step")
    without = demo.language.bits(char_rnn.WITHOUT)
    seed_loss.set_title(
        f"{exploding_net.TITLE}, each of {len(demo.exploding.without)} seeds (drawn up to {CEILING_WORDS})", fontsize=11
    )
    char_loss.set_title(f"{char_rnn.TITLE}, mean and range of {len(without)} seeds", fontsize=11)
    for axes in (seed_loss, char_loss):
        axes.legend(loc="upper right", frameon=False, borderaxespad=0.2, bbox_to_anchor=(1.0, 0.93))
