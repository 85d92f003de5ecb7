"""The chart of norms: the norm of each step and the threshold, and what happened to the steps."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterable, Sequence

import plotly.graph_objects as go

from gradclip.report.downsampling import thin
from gradclip.report.style import (
    BROKEN,
    CLIPPED,
    DASH,
    MUTED,
    THRESHOLD,
    colour_of,
    layout,
    log_axis,
    log_range,
    positive,
)
from gradclip.report.summary import Summary
from gradclip.telemetry.event import Event
from gradclip.verdict.formatting import short, shortened
from gradclip.verdict.numbers import acted, broken

POINTS, MARKS = 2400, 600
"""At most so many points are drawn of a line, and so many marks of a kind: a wide chart has half as many pixels across,
and twice as many."""

CROWD = 100
"""So many marks would hide the line behind them: they are drawn smaller."""

FARTHEST = 1000.0
"""A threshold above so many largest norms, or below that part of the median, is not drawn: the norms would become a
flat line."""

AT_STEP = "step %{x}<br>"


def norm_chart(summaries: Sequence[Summary], number: int = 0) -> go.Figure:
    """The chart of the run that is called by its `number`, on axes that hold all the runs, so that they compare."""
    summary = summaries[number]
    shown = [norm for summary in summaries for event in summary.run if positive(norm := event.norm_before)]
    limits = [limit for summary in summaries for limit in thresholds_shown(summary) if positive(limit)]
    low, high = log_range([*shown, *limits], margin=0.06, least=0.12)
    lines = [norm_line(summary, colour_of(number)), *threshold_line(summary)]
    figure = go.Figure([*lines, *marks(summary.run, low, high)], layout(height=320))
    figure.update_xaxes(title_text="step", range=range_of_steps(summaries))
    return figure.update_yaxes(title_text="gradient norm", **log_axis(low, high))


def range_of_steps(summaries: Sequence[Summary]) -> list[float]:
    """An axis that holds the steps of all runs, with a margin."""
    steps = [
        step for summary in summaries if summary.run for step in (summary.numbers.first, summary.numbers.last)
    ] or [0]
    margin = max(0.01 * (max(steps) - min(steps)), 0.5)
    return [min(steps) - margin, max(steps) + margin]


def thresholds_shown(summary: Summary) -> list[float]:
    """The threshold of each step; NaN where it belongs to a part of the gradient, or lies too far from the norms."""
    numbers = summary.numbers
    if not numbers.global_threshold or not numbers.median > 0:
        return [math.nan] * len(summary.run)
    low, high = numbers.median / FARTHEST, numbers.largest * FARTHEST
    return [event.threshold if low < event.threshold < high else math.nan for event in summary.run]


def norm_line(summary: Summary, colour: str) -> go.Scatter:
    """The norms before clipping; with many steps, the smallest and the largest of each few."""
    norms = [event.norm_before if positive(event.norm_before) else math.nan for event in summary.run]
    return line("norm", summary.run, norms, {"color": colour, "width": 1.2})


def threshold_line(summary: Summary) -> list[go.Scatter]:
    """The thresholds, where there are any to be drawn."""
    shown = thresholds_shown(summary)
    if all(map(math.isnan, shown)):
        return []
    return [line("threshold", summary.run, shown, {"color": THRESHOLD, "width": 1.6, "dash": DASH})]


def line(name: str, run: Sequence[Event], values: Sequence[float], look: dict[str, object]) -> go.Scatter:
    """A line through the values of the steps, broken where there is none; one value alone is a point."""
    places = thin(values, POINTS)
    return go.Scatter(
        name=name,
        x=[run[place].step for place in places],
        y=[None if math.isnan(values[place]) else values[place] for place in places],
        customdata=[short(values[place]) for place in places],
        mode="lines" if len(values) > 1 else "markers",
        line=look,
        marker={"color": look["color"]},
        hovertemplate=f"{AT_STEP}%{{fullData.name}} %{{customdata}}<extra></extra>",
    )


def marks(run: Sequence[Event], low: float, high: float) -> list[go.Scatter]:
    """The steps on which something happened: clipped or left out at their norm, broken and zero ones at the edge.

    The axis reaches from the logarithm `low` to `high`.
    """
    inside = 0.04 * (high - low)
    # No float lies beyond: where the norms reach so far, the mark lies among them.
    top, bottom = 10 ** min(high - inside, 308), 10 ** max(low + inside, -307)
    clipped = few(run, (event.norm_before if acted(event) and not broken(event) else math.nan for event in run))
    nonfinite = few(run, (top if broken(event) else math.nan for event in run))
    zero = few(run, (bottom if event.norm_before == 0 else math.nan for event in run))
    found = [
        mark("clipped", clipped, {"color": CLIPPED, "symbol": "circle", "size": 6 if len(clipped) < CROWD else 3}),
        mark("non-finite", nonfinite, {"color": BROKEN, "symbol": "x", "size": 9}),
        mark("zero", zero, {"color": MUTED, "symbol": "triangle-up", "size": 6}),
    ]
    return [drawn for drawn in found if len(drawn.x)]


def few(run: Sequence[Event], heights: Iterable[float]) -> list[tuple[Event, float]]:
    """The events with a finite height, thinned so that the highest stay."""
    known = list(heights)
    return [(run[place], known[place]) for place in thin(known, MARKS) if math.isfinite(known[place])]


def outcome_label(event: Event) -> str:
    """What became of a step."""
    if broken(event):
        names = ", ".join(html.escape(shortened(name, 40)) for name in event.offenders)
        return "NaN or infinity" + (f" in {names}" if names else "") + (", skipped" if event.skipped else "")
    norm = f"norm {short(event.norm_before)}"
    if event.skipped:
        return f"{norm}, skipped"
    return f"{norm}, clipped to {short(event.norm_after)}" if event.clipped else norm


def mark(
    name: str,
    points: Sequence[tuple[Event, float]],
    look: dict[str, object],
    label_of: Callable[[Event], str] = outcome_label,
) -> go.Scatter:
    """Marks of one kind; `label_of` is what is said of a step when its mark is pointed at."""
    return go.Scatter(
        name=name,
        x=[event.step for event, _ in points],
        y=[height for _, height in points],
        customdata=[label_of(event) for event, _ in points],
        mode="markers",
        marker=look,
        hovertemplate=f"{AT_STEP}%{{customdata}}<extra></extra>",
    )
