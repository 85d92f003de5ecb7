"""The histogram: how many steps have which norm, and where the threshold lies."""

from __future__ import annotations

import html
import itertools
import math
from collections.abc import Iterable, Sequence

import plotly.graph_objects as go

from gradclip.report.bins import counts, log_edges
from gradclip.report.norm_chart import thresholds_shown
from gradclip.report.style import DASH, THRESHOLD, colour_of, layout, log_range, log_ticks, positive
from gradclip.report.summary import Summary
from gradclip.verdict.formatting import count, short

LOWEST = 0.6
"""Where the axis of counts begins: a bin with one step is seen."""
NONE = 0.1
"""Where a bin without steps is drawn, below the axis."""


def histogram(summaries: Sequence[Summary]) -> go.Figure:
    """How many steps have which norm, on logarithmic axes, so that a few steps far out are seen too.

    The axis of norms is one of their decimal logarithms, for bars of equal width. Several runs are outlines over one
    another. There must be a norm above 0.
    """
    edges = log_edges(event.norm_before for summary in summaries for event in summary.run)
    draw = bars if len(summaries) == 1 else outline
    traces = [draw(summary, edges, colour_of(number)) for number, summary in enumerate(summaries)]
    figure = go.Figure(traces, layout(height=300, bargap=0.08))
    limits = [[limit for limit in thresholds_shown(summary) if positive(limit)] for summary in summaries]
    for shown in filter(None, limits):
        mark_thresholds(figure, math.log10(min(shown)), math.log10(max(shown)))
    ends = [10 ** edges[0], 10 ** edges[-1], *itertools.chain(*limits)]
    label_axes(figure, ends, max(max(trace.y) for trace in traces))
    return figure


def bars(summary: Summary, edges: Sequence[float], colour: str) -> go.Bar:
    """The bars of the only run."""
    look = {"color": colour, "line": {"width": 0}}
    return go.Bar(**binned(summary, edges), marker=look, hovertemplate="%{customdata}<extra></extra>")


def outline(summary: Summary, edges: Sequence[float], colour: str) -> go.Scatter:
    """The outline of the bars of one run among others."""
    look = {"color": colour, "width": 2, "shape": "hvh"}
    label = "%{fullData.name}: %{customdata}<extra></extra>"
    return go.Scatter(**binned(summary, edges), mode="lines", line=look, hovertemplate=label)


def binned(summary: Summary, edges: Sequence[float]) -> dict[str, object]:
    """The bins of a run: their middles, how many steps are in each, and what is said of them."""
    pairs = list(itertools.pairwise(edges))
    found = counts((event.norm_before for event in summary.run), edges)
    spans = [f"norm {short(10**low)} to {short(10**high)}" for low, high in pairs]
    return {
        "name": html.escape(summary.name),
        "x": [(low + high) / 2 for low, high in pairs],
        "y": [max(number, NONE) for number in found],
        "customdata": [f"{count(number, 'step')}, {span}" for number, span in zip(found, spans, strict=True)],
    }


def mark_thresholds(figure: go.Figure, low: float, high: float) -> None:
    """A line at a threshold, or a band over those that a run had; they are given as logarithms."""
    if low == high:
        figure.add_vline(x=low, line={"color": THRESHOLD, "width": 1.8, "dash": DASH})
    else:
        figure.add_vrect(x0=low, x1=high, line={"width": 0}, fillcolor=THRESHOLD, opacity=0.25)


def label_axes(figure: go.Figure, norms: Iterable[float], most: float) -> None:
    """Axes that hold the norms and the highest bar, with round numbers at their ticks."""
    low, high = log_range(list(norms), margin=0.02)
    ticks = log_ticks(low, high)
    figure.update_xaxes(title_text="gradient norm", range=[low, high], tickvals=ticks)
    figure.update_xaxes(ticktext=[short(10**tick) for tick in ticks])
    floor, top = math.log10(LOWEST), math.log10(1.3 * most)
    counts = [round(10**tick) for tick in log_ticks(0.0, top)]
    figure.update_yaxes(title_text="steps", type="log", range=[floor, top], tickvals=counts, tickformat=",")
