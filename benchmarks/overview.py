"""The one table that says how fast clipping is, and the picture of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.goals import Found, Row, ratios, trusted
from benchmarks.regression import Samples, changes_of
from benchmarks.tables import Table

HEAD = ["work", "limit, ms", "gradclip, ms", "peer, ms", "over the limit", "faster than the peer", "since last"]
NOTE = (
    "The limit is what the memory of this machine takes for the same bytes, measured in the same run: one read, or a "
    "read, then a read and write, where everything is clipped. The peer is the framework's own clip. Read the ratios; "
    "a ~ says that other work ran meanwhile. 'Since last' compares with the committed figures, where those are of such "
    "a processor."
)


def table(found: list[Found], last: Samples) -> Table:
    """A line for each case that has something to be compared with."""
    return Table("Clipping", NOTE, HEAD, [line(case, last) for case in found if case.case.rows])


def line(found: Found, last: Samples) -> list[str]:
    """Limit, gradclip, peer, and both ratios, of the first row of a case."""
    row = found.case.rows[0]
    over_limit, over_ours = ratios(found, row)
    verdicts = {change.verdict for change in changes_of(found, last)}
    return [
        found.case.name + ("" if trusted(found, row) else " ~"),
        *times(found, row),
        "" if over_limit is None else f"{over_limit:.2f}",
        "" if over_ours is None else f"{over_ours:.1f} x",
        next((word for word in ("slower", "faster", "same") if word in verdicts), ""),
    ]


def times(found: Found, row: Row) -> list[str]:
    """The milliseconds of the limit, of gradclip and of the peer; nothing where there is none."""
    names = [row.limit and row.limit.candidate, row.ours, row.peer and row.peer.candidate]
    return ["" if name is None else milliseconds(found.timings[name].median) for name in names]


def milliseconds(seconds: float) -> str:
    """Three digits."""
    return f"{1e3 * seconds:.3g}" if seconds < 1.0 else f"{1e3 * seconds:.0f}"


TELLING = (
    "GPT-2 fp32, nothing to clip",
    "GPT-2 fp32, clipped",
    "GPT-2 bf16, nothing to clip",
    "2000 x 16 fp32, out of cache",
    "GPT-2 fp32, AGC, nothing to clip",
    "GPT-2 fp32, Paddle, global norm, nothing to clip",
)
"""The six cases that the README shows."""

DRAWN = (
    *TELLING,
    "GPT-2 fp32, each tensor clipped",
    "GPT-2 fp32, by value, nothing outside",
    "GPT-2 bf16, clipped",
    "ResNet-50 fp32, nothing to clip",
    "GPT-2 fp32, JAX, nothing to clip",
    "GPT-2 bf16, JAX, nothing to clip",
)
"""Those of the picture, so far as they have a limit."""


def drawable(found: list[Found]) -> list[Found]:
    """The cases that can be drawn: those with a limit and a peer."""
    return [case for case in found if case.case.name in DRAWN and None not in ratios(case, case.case.rows[0])]


def draw(found: list[Found], path: Path) -> None:
    """gradclip and the peer over the limit, on a logarithmic axis, as PNG."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    figure = Figure(figsize=(9, 1.4 + 0.36 * len(found)), layout="constrained")
    axes: Any = figure.subplots()
    heights = range(len(found))
    ours, theirs = zip(*map(over_the_limit, found), strict=True)
    axes.hlines(heights, ours, theirs, color="#bbbbbb", linewidth=1.5, zorder=1)
    axes.plot(ours, heights, "o", color="#1b7837", label="gradclip")
    axes.plot(theirs, heights, "s", color="#b2182b", label="the framework's own clip (beside AGC: timm's)")
    axes.axvline(1.0, color="#4d4d4d", linestyle="--", label="limit of the memory")
    ticks = [tick for tick in (0.5, 1, 2, 5, 10, 20, 50, 100) if tick < 1.2 * max(*ours, *theirs)]
    axes.set(xscale="log", xticks=ticks, xticklabels=[f"{tick:g}" for tick in ticks])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set(yticks=heights, yticklabels=[case.case.name for case in found], xlabel="time over the limit")
    axes.grid(visible=True, axis="x", alpha=0.3)
    axes.invert_yaxis()
    figure.legend(frameon=False, loc="outside upper center", ncols=3, fontsize="small")
    figure.savefig(path, dpi=120)


def over_the_limit(found: Found) -> tuple[float, float]:
    """The time of gradclip and that of the peer over the limit."""
    over_limit, over_ours = ratios(found, found.case.rows[0])
    assert over_limit is not None
    assert over_ours is not None
    return over_limit, over_limit * over_ours
