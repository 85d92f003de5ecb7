"""The page: one document that holds its data, its charts and what draws them, and asks no network for anything."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from gradclip.report import loss_chart
from gradclip.report.heat_map import heat_map
from gradclip.report.histogram import histogram
from gradclip.report.in_numbers import layers_in_numbers, losses_in_numbers, norms_in_numbers, spread_in_numbers
from gradclip.report.loss_ranking import compare_losses
from gradclip.report.norm_chart import POINTS, norm_chart, thresholds_shown
from gradclip.report.style import DARK
from gradclip.report.summary import HOW_TO_TENSORS, Summary, summary_of
from gradclip.report.tiles import facts_of, tiles_of
from gradclip.report.what_if import CANNOT_KNOW
from gradclip.telemetry.runs import Run
from gradclip.telemetry.spikes import AROUND, SPIKE
from gradclip.verdict import formatting

ICONS = {"good": "✓", "look": "!", "bad": "✕"}


def document(summaries: Sequence[Summary]) -> str:
    """The page about the runs, as text."""
    charts = charts_of(summaries)
    return rendered(
        "page.html.jinja",
        title=", ".join(summary.name for summary in summaries),
        comparison=compare_losses(summaries),
        icons=ICONS,
        runs=[shown(number, summary) for number, summary in enumerate(summaries)],
        heights={name: chart.layout.height for name, chart in charts.items()},
        data=in_script({"charts": {name: as_data(chart) for name, chart in charts.items()}, "dark": DARK}),
        plotly=Markup(get_plotlyjs()),
        loss_caption=loss_chart.caption(summaries) if "loss" in charts else "",
        with_losses=any(summary.numbers.losses for summary in summaries),
        how_to_tensors=HOW_TO_TENSORS,
        cannot_know=CANNOT_KNOW,
        spike=f"{SPIKE:g}",
        around=AROUND,
    )


def charts_of(summaries: Sequence[Summary]) -> dict[str, go.Figure]:
    """The charts of the page by the ids of their places."""
    with_heat = [number for number, summary in enumerate(summaries) if summary.heat]
    heats = [summary.heat for summary in summaries if summary.heat]
    drawable = any(summary.numbers.largest > 0 for summary in summaries)
    return {
        **{f"norm-{number}": norm_chart(summaries, number) for number, summary in enumerate(summaries) if summary.run},
        **({"loss": loss_chart.loss_chart(summaries)} if any(map(loss_chart.has_chart, summaries)) else {}),
        **({"histogram": histogram(summaries)} if drawable else {}),
        **{f"heat-{number}": heat_map(heats, place) for place, number in enumerate(with_heat)},
    }


def shown(number: int, summary: Summary) -> dict[str, Any]:
    """What the template shows of one run."""
    return {
        "number": number,
        "summary": summary,
        "tiles": tiles_of(summary),
        "facts": facts_of(summary),
        "caption": caption(summary),
        "has_loss": loss_chart.has_chart(summary),
        "norms": norms_in_numbers(summary),
        "losses": losses_in_numbers(summary),
        "spread": spread_in_numbers(summary),
        "layers": layers_in_numbers(summary, summary.heat) if summary.heat else None,
    }


def caption(summary: Summary) -> str:
    """What must be known to read the chart of norms."""
    steps, numbers = len(summary.run), summary.numbers
    parts = []
    if steps > POINTS:
        each = formatting.count(round(2 * steps / POINTS), "step")
        parts.append(f"Of every {each} the smallest and the largest norm are drawn, so that no spike is lost.")
    if numbers.thresholds and not numbers.global_threshold:
        parts.append("The rule has a threshold for each part of the gradient, none of which belongs to this norm.")
    elif numbers.thresholds and numbers.median > 0 and all(map(math.isnan, thresholds_shown(summary))):
        parts.append(
            f"The threshold, {formatting.short(numbers.thresholds[1])}, lies too far from the norms to be drawn."
        )
    return " ".join(parts)


def as_data(figure: go.Figure) -> dict[str, Any]:
    """The figure as plain data."""
    data: dict[str, Any] = figure.to_plotly_json()
    return {"data": data["data"], "layout": data["layout"]}


def in_script(data: Any) -> Markup:
    """The data as JSON that can stand in a script element, whatever is in it; `ValueError` for a NaN."""
    return Markup(json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"))


def plot(run: Run) -> go.Figure:
    """The chart of norms with the threshold, to be shown alone."""
    figure = norm_chart([summary_of(run, str(run.path))])
    legend = {"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0}
    return figure.update_layout(showlegend=True, legend=legend, paper_bgcolor="white", height=380)


def fragment(run: Run) -> str:
    """Verdict, tiles and the chart of norms, to stand in a notebook; it holds Plotly, and needs no network either."""
    summary = summary_of(run, str(run.path))
    return rendered(
        "fragment.html.jinja",
        icon=ICONS[summary.verdict.level],
        summary=summary,
        tiles=tiles_of(summary),
        figure=Markup(plot(run).to_html(full_html=False, include_plotlyjs=True, config={"displaylogo": False})),
    )


def rendered(name: str, **values: Any) -> str:
    """The template with the values in their places."""
    return str(environment().get_template(name).render(**values))


@cache
def environment() -> Environment:
    """Templates in which every value is escaped that is not marked as safe."""
    found = Environment(
        loader=PackageLoader("gradclip.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters.update({make.__name__: make for make in FILTERS})
    return found


FILTERS = (formatting.short, formatting.known, formatting.percent, formatting.times, formatting.shortened)
