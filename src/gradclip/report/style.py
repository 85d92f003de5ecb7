"""How the charts look: the colours of a light page and of a dark one, the fonts, the axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

INK, MUTED, GRID, HOVER = "#1f2328", "#5c6470", "#e3e6ea", "#fdfdfd"
THRESHOLD, CLIPPED, BROKEN = "#c44e00", "#e69f00", "#a3195b"
RUNS = ("#0072b2", "#00865f", "#6a4fb3", "#5a5a5a")
"""A colour for each run; from the fifth on they come again. All are of the palette of Okabe and Ito, or near it, which
is told apart without red and green."""

DARK = {
    INK: "#e6e8eb",
    MUTED: "#9aa4b0",
    GRID: "#2b323b",
    HOVER: "#1d232b",
    THRESHOLD: "#ff8c42",
    CLIPPED: "#f2b632",
    BROKEN: "#f075b6",
    **dict(zip(RUNS, ("#56b4e9", "#3ecfa0", "#a993f0", "#b9bec5"), strict=True)),
}
"""What each colour becomes on a dark page; those of the page itself are in `page.css`."""

FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'
CLEAR = "rgba(0,0,0,0)"
DASH = "6px,3px"


def colour_of(number: int) -> str:
    """The colour of the run that stands at this place of a report."""
    return RUNS[number % len(RUNS)]


def layout(**more: Any) -> dict[str, Any]:
    """What all charts share: no frame, a light grid, the fonts of the system, and the colour of the page behind."""
    axis = {
        "gridcolor": GRID,
        "linecolor": GRID,
        "zeroline": False,
        "automargin": True,
        "ticks": "",
        "title": {"font": {"size": 12, "color": MUTED}, "standoff": 8},
        "tickfont": {"size": 12, "color": MUTED},
    }
    return {
        "template": {},
        "paper_bgcolor": CLEAR,
        "plot_bgcolor": CLEAR,
        "showlegend": False,
        "font": {"family": FONT, "size": 12, "color": INK},
        "margin": {"l": 8, "r": 8, "t": 8, "b": 8},
        "hovermode": "closest",
        "hoverdistance": 60,
        "hoverlabel": {"bgcolor": HOVER, "bordercolor": GRID, "font": {"family": FONT, "color": INK}},
        "xaxis": axis,
        "yaxis": axis,
        **more,
    }


def log_ticks(low: float, high: float) -> list[float]:
    """The logarithms of round numbers between two logarithms: 1, 2 and 5, or decades, at most about ten.

    >>> [round(10**tick, 6) for tick in log_ticks(-0.5, 1.1)]
    [0.5, 1.0, 2.0, 5.0, 10.0]
    """
    stride = max(1, math.ceil((high - low) / 8))
    decades = range(math.floor(low), math.floor(high) + 1, stride)
    digits = (1, 2, 5) if high - low < 3.5 else (1,)
    return [tick for decade in decades for digit in digits if low <= (tick := decade + math.log10(digit)) <= high]


def log_range(values: Sequence[float], margin: float, least: float = 0.0) -> list[float]:
    """The logarithms between which these values lie, with a margin: a part of their distance, `least` at least.

    >>> log_range([1.0, 100.0], margin=0.1)
    [-0.2, 2.2]
    """
    low, high = math.log10(min(values, default=1.0)), math.log10(max(values, default=1.0))
    free = max(margin * (high - low), least)
    return [low - free, high + free]


def log_axis(low: float, high: float) -> dict[str, Any]:
    """A logarithmic axis from the logarithm `low` to `high`."""
    # Plotly would label 1 to 9 in each decade, or decades alone: between one decade and four, 1, 2 and 5 are enough.
    dtick = "D2" if 0.8 < high - low < 4 else None
    return {"type": "log", "range": [low, high], "tickformat": "~g", "dtick": dtick}


def positive(value: float) -> bool:
    """Whether a logarithmic axis has a place for the value."""
    return 0 < value < math.inf
