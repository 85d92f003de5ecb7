"""Pictures as small files: PNG with a palette, a third as large as with all colours."""

from __future__ import annotations

import io
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

COLOURS = 128


def save_small(figure: Figure, path: Path, dpi: int) -> Path:
    """Draw `figure` into the PNG file `path` in few colours."""
    drawn = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(drawn, dpi=dpi)
    few = Image.open(drawn).convert("RGB").quantize(COLOURS, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    few.save(path, optimize=True)
    return path
