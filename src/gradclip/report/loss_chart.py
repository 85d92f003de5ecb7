"""The chart of losses: the loss of each step of all runs, and a line through the noise of each."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from statistics import median_low
from typing import Any

import plotly.graph_objects as go

from gradclip.report.downsampling import buckets
from gradclip.report.norm_chart import POINTS, few, line, mark, range_of_steps
from gradclip.report.style import BROKEN, colour_of, layout, log_axis, log_range
from gradclip.report.summary import Summary
from gradclip.telemetry.event import Event
from gradclip.verdict.formatting import count, short
from gradclip.verdict.losses import losses_of

LEAST = 3
"""So many finite losses are a chart."""

STRETCHES, SHORTEST = 80, 5
"""The line through the noise has at most so many points, each the median of at least so many steps."""

WIDE = 10.0
"""Losses above 0, one of them so many times another, have a logarithmic axis: beside a spike the rest would be flat."""

FAINT = 0.4
"""The opacity of the line below that through the noise."""

MARGIN, EDGE = 0.06, 0.04
"""Parts of the axis: what is left free beyond the losses, and how far inside it the marks of each run lie."""


def has_chart(summary: Summary) -> bool:
    """Whether the run has losses to be drawn."""
    return summary.numbers.losses - summary.numbers.nonfinite_losses >= LEAST


def loss_chart(summaries: Sequence[Summary]) -> go.Figure:
    """The losses of all the runs that have a chart, in the colours of the runs; there must be one."""
    alone = len(summaries) == 1
    shown = [(number, summary) for number, summary in enumerate(summaries) if has_chart(summary)]
    axis = loss_axis([loss for _, summary in shown for loss in losses_of(summary.run) if math.isfinite(loss)])
    figure = go.Figure(layout=layout(height=320))
    for number, summary in shown:
        figure.add_traces(lines(summary, "loss" if alone else f"{html.escape(summary.name)}: loss", colour_of(number)))
    for place, (number, summary) in enumerate(shown, 1):
        figure.add_traces(crosses(summary, height_at(axis, place * EDGE), BROKEN if alone else colour_of(number)))
    figure.update_xaxes(title_text="step", range=range_of_steps(summaries))
    return figure.update_yaxes(title_text="loss", **axis)


def lines(summary: Summary, name: str, colour: str) -> list[go.Scatter]:
    """The loss of each step, and over it the medians, where there are enough steps for them."""
    run = with_loss(summary.run)
    losses = [loss if math.isfinite(loss) else math.nan for loss in losses_of(run)]
    raw = line(name, run, losses, {"color": colour, "width": 1.2})
    stretches = stretches_of(len(losses))
    if not stretches:
        return [raw]
    return [raw.update(opacity=FAINT), medians(name, run, losses, stretches, colour)]


def stretches_of(losses: int) -> list[range]:
    """The stretches of so many losses that have a median; none where they are few."""
    return buckets(losses, min(STRETCHES, losses // SHORTEST)) if losses >= 2 * SHORTEST else []


def medians(
    name: str, run: Sequence[Event], losses: Sequence[float], stretches: Sequence[range], colour: str
) -> go.Scatter:
    """The line through the medians of the finite losses of each stretch, drawn at its middle."""
    finite = [[losses[place] for place in stretch if not math.isnan(losses[place])] for stretch in stretches]
    found = [median_low(known) if known else None for known in finite]
    return go.Scatter(
        name=name,
        x=[(run[stretch[0]].step + run[stretch[-1]].step) / 2 for stretch in stretches],
        y=found,
        customdata=[
            f"{short(math.nan if middle is None else middle)}, the median of steps {run[stretch[0]].step} to "
            f"{run[stretch[-1]].step}"
            for middle, stretch in zip(found, stretches, strict=True)
        ],
        mode="lines",
        line={"color": colour, "width": 2.4},
        hovertemplate="%{fullData.name} %{customdata}<extra></extra>",
    )


def crosses(summary: Summary, height: float, colour: str) -> list[go.Scatter]:
    """A cross at this height for each step whose loss is not finite."""
    run = with_loss(summary.run)
    broken = few(run, (math.nan if math.isfinite(loss) else height for loss in losses_of(run)))
    look = {"color": colour, "symbol": "x", "size": 9}
    name = html.escape(summary.name)
    return [mark("non-finite", broken, look, lambda event: f"{name}: loss {event.loss}")] if broken else []


def with_loss(run: Sequence[Event]) -> list[Event]:
    """The steps that have a loss."""
    return [event for event in run if event.loss is not None]


def loss_axis(losses: Sequence[float]) -> dict[str, Any]:
    """An axis that holds these losses, all finite: a logarithmic one where they are above 0 and far apart."""
    low, high = min(losses), max(losses)
    if low > 0 and high / WIDE >= low:
        return log_axis(*log_range([low, high], MARGIN))
    free = MARGIN * (high - low) or max(MARGIN * abs(low), MARGIN)
    return {"range": [low - free, high + free]}


def height_at(axis: Mapping[str, Any], below: float) -> float:
    """The loss that lies this part of the axis below its upper end."""
    low, high = axis["range"]
    place: float = high - below * (high - low)
    return 10**place if "type" in axis else place


def caption(summaries: Sequence[Summary]) -> str:
    """What must be known to read the chart."""
    steps = [summary.numbers.losses for summary in summaries if has_chart(summary)]
    lengths = {math.ceil(losses / len(stretches)) for losses in steps if (stretches := stretches_of(losses))}
    parts = []
    if lengths:
        stretch = f"{'up to ' if len(lengths) > 1 else ''}{count(max(lengths), 'step')}"
        parts.append(f"The strong line is the median of {stretch}, the faint one is each step.")
    if max(steps) > POINTS:
        parts.append("Of the faint line the smallest and the largest loss of every few steps are drawn.")
    if missing := [summary.name for summary in summaries if not has_chart(summary)]:
        parts.append(f"Without a loss to draw: {', '.join(missing)}.")
    return " ".join(parts)
