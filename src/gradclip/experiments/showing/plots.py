"""What the pictures of experiments share: a frame, logarithmic axes, and files that are small."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from PIL import Image

BLACK, BLUE, VERMILION, GREEN = "#000000", "#0072B2", "#D55E00", "#009E73"
PURPLE, ORANGE, SKY = "#CC79A7", "#E69F00", "#56B4E9"
"""The colours of M. Okabe and K. Ito that show on white, which all eyes tell apart."""
PALETTE = 128
"""The colours of a small file."""


def light_frame(axes: Axes) -> None:
    """A light grid, and no frame above and on the right."""
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def logarithmic(axes: Axes, name: str, digits: Sequence[float]) -> None:
    """Make the axis "x" or "y" logarithmic, with plain numbers at these digits of each factor of ten."""
    axes.set(**{f"{name}scale": "log"})
    axis = axes.xaxis if name == "x" else axes.yaxis
    axis.set_major_locator(LogLocator(subs=digits))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter("")


def save_png(figure: Figure, path: Path, dpi: int) -> Path:
    """Draw `figure` into the PNG file `path`."""
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=dpi)
    return path


def save_small(figure: Figure, path: Path, dpi: int) -> Path:
    """Draw `figure` into the PNG file `path` with a palette, a third as large as with all colours."""
    drawn = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(drawn, dpi=dpi)
    few = Image.open(drawn).convert("RGB").quantize(PALETTE, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    few.save(path, optimize=True)
    return path
