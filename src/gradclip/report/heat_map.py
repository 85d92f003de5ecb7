"""The heat map: the norm of each layer over time as a colour."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from gradclip.report.layers import Heat
from gradclip.report.style import BROKEN, MUTED, layout, log_ticks, positive
from gradclip.verdict.formatting import short, shortened

LONGEST_NAME = 26
MOST_TICKS = 5
ROW, AXES = 17, 110
"""The height of a row and of what stands around them, in pixels."""


def heat_map(heats: Sequence[Heat], number: int = 0) -> go.Figure:
    """The heat map of the run that is called by its `number`; the colours mean the same in all of them.

    A colour is the logarithm of a norm, and a cross marks one that was not finite.
    """
    heat = heats[number]
    middles = [(first + last) / 2 for first, last in heat.spans]
    cells = go.Heatmap(
        x=middles,
        z=[[math.log10(norm) if positive(norm) else None for norm in row] for row in heat.norms],
        customdata=[[cell_label(heat, row, column) for column in range(len(middles))] for row in range(len(heat.rows))],
        hovertemplate="%{customdata}<extra></extra>",
        hoverongaps=True,
        **colours(heats),
    )
    figure = go.Figure([cells, *crosses(heat, middles)], layout(height=AXES + ROW * len(heat.rows)))
    labels = [html.escape(shortened(row, LONGEST_NAME)) for row in heat.rows]
    figure.update_xaxes(title_text="step", showgrid=False)
    figure.update_yaxes(tickvals=list(range(len(labels))), ticktext=labels, tickfont_size=11)
    return figure.update_yaxes(autorange="reversed", showgrid=False)


def cell_label(heat: Heat, row: int, column: int) -> str:
    """What is said of a cell: its layer, its steps and its norm."""
    first, last = heat.spans[column]
    steps = f"step {first}" if first == last else f"steps {first} to {last}"
    return f"{html.escape(shortened(heat.rows[row], 60))}<br>{steps}: norm {short(heat.norms[row][column])}"


def crosses(heat: Heat, middles: Sequence[float]) -> list[go.Scatter]:
    """A cross on each cell with a non-finite norm."""
    if not heat.broken:
        return []
    names = [html.escape(shortened(heat.rows[row], 60)) for row, _ in heat.broken]
    return [
        go.Scatter(
            name="non-finite",
            x=[middles[column] for _, column in heat.broken],
            y=[row for row, _ in heat.broken],
            customdata=[f"{name}: NaN or infinity" for name in names],
            mode="markers",
            marker={"color": BROKEN, "symbol": "x", "size": 7},
            hovertemplate="%{customdata}<extra></extra>",
        )
    ]


def colours(heats: Sequence[Heat]) -> dict[str, Any]:
    """The scale of the colours, and its legend in norms and not in their logarithms."""
    logs = [math.log10(norm) for heat in heats for row in heat.norms for norm in row if positive(norm)] or [0.0]
    ticks, small = log_ticks(min(logs), max(logs)), {"size": 11, "color": MUTED}
    ticks = ticks[:: math.ceil(len(ticks) / MOST_TICKS)] if ticks else []
    bar = {
        "tickvals": ticks,
        "ticktext": [short(10**tick) for tick in ticks],
        "tickfont": small,
        "title": {"text": "norm", "font": small},
        "outlinewidth": 0,
        "thickness": 10,
    }
    return {"colorscale": "Viridis", "zmin": min(logs), "zmax": max(logs), "colorbar": bar}
