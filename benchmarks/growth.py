"""How time grows with the number of tensors and with their bytes; as a table and as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.cases import OURS, unclipped
from benchmarks.names import READ, TORCH
from benchmarks.sampling import Candidate, Plan, Timings, compare
from benchmarks.workloads import SEED, Workload, with_gradients

COUNTS = (10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000)
SIZES = tuple(1 << power for power in range(16, 31))


class Curve(NamedTuple):
    """Timings of each candidate at each size."""

    title: str
    axis: str
    points: dict[int, Timings]


def grow(plan: Plan, seconds: float, cut: int = 1) -> list[Curve]:
    """Both curves, in about `seconds`; `cut` leaves the long end away."""
    counts = [count for count in COUNTS if count <= COUNTS[-1] // cut]
    sizes = [size for size in SIZES if size <= SIZES[-1] // cut**2]
    each = seconds / (len(counts) + len(sizes))
    by_count = {count: compare(_tensors(count), plan, each, in_cache=True) for count in counts}
    by_size = {size: compare(candidates, plan, each) for size, candidates in _sizes(sizes)}
    return [
        Curve("Tensors of 16 elements, in cache", "tensors", by_count),
        Curve("One fp32 tensor, out of cache", "bytes", by_size),
    ]


def _tensors(count: int) -> list[Candidate]:
    return [one for one in unclipped(with_gradients("", [(16,)] * count)) if one.name != READ]


def _sizes(sizes: list[int]) -> list[tuple[int, list[Candidate]]]:
    """Candidates for one tensor of each size; all lie in the memory of the largest."""
    values = torch.randn(sizes[-1] // 4, generator=torch.Generator().manual_seed(SEED))
    found = []
    for size in sizes:
        parameter = torch.nn.Parameter(torch.empty(size // 4))
        parameter.grad = values[: size // 4]
        found.append((size, unclipped(Workload("", [parameter], []))))
    return found


def tables(curves: list[Curve]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Title, head and lines of a table for each curve."""
    return [(curve.title, *_table(curve)) for curve in curves]


def _table(curve: Curve) -> tuple[list[str], list[list[str]]]:
    names = list(next(iter(curve.points.values())))
    head = [curve.axis, *(f"{name}, us" for name in names), "torch over gradclip"]
    lines = []
    for size, timings in curve.points.items():
        times = [f"{1e6 * timings[name].median:.1f}" for name in names]
        lines.append([f"{size:,}", *times, f"{timings[TORCH].median / timings[OURS].median:.1f}"])
    return head, lines


def draw(curves: list[Curve], path: Path) -> None:
    """The curves on logarithmic axes, as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.4), layout="constrained")
    for axes, curve in zip(figure.subplots(1, len(curves)), curves, strict=True):
        _draw(axes, curve)
    figure.suptitle("Time of one clip by global norm, nothing to clip")
    figure.savefig(path, dpi=120)


STYLES: dict[str, dict[str, Any]] = {
    OURS: {"color": "#1b7837", "marker": "o", "label": "gradclip"},
    TORCH: {"color": "#b2182b", "marker": "s", "label": "torch.nn.utils.clip_grad_norm_"},
    READ: {"color": "#4d4d4d", "linestyle": "--", "label": "limit: one read of the bytes"},
}


def _draw(axes: Any, curve: Curve) -> None:
    for name in next(iter(curve.points.values())):
        sizes = list(curve.points)
        axes.plot(sizes, [1e3 * curve.points[size][name].median for size in sizes], markersize=4, **STYLES[name])
    axes.set(xscale="log", yscale="log", xlabel=curve.axis, ylabel="milliseconds", title=curve.title)
    axes.grid(visible=True, which="major", alpha=0.3)
    axes.legend(frameon=False)
