"""Where the tables go: a terminal, plain text, a Markdown page, JSON."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

import torch

import gradclip
from benchmarks.growth import draw
from benchmarks.report import Results, Table, ratios, tables, trusted, verdict
from gradclip.torch import Clipper

VERSIONS = ("gradclip", "torch", "paddlepaddle", "jax", "jaxlib", "optax", "timm", "numpy", "numba")


def machine() -> dict[str, str]:
    """What the figures depend on."""
    found = {
        "date": datetime.date.today().isoformat(),
        "processor": _processor(),
        "cores": f"{os.cpu_count()}, PyTorch uses {torch.get_num_threads()}",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
    }
    return found | {name: _version(name) for name in VERSIONS} | {"engine of gradclip": _engine()}


def _engine() -> str:
    weight = torch.nn.Parameter(torch.zeros(1))
    weight.grad = torch.ones(1)
    return Clipper(gradclip.ClipGradByGlobalNorm(1.0)).clip_([weight]).engine


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    name = facts.get("model name", platform.machine())
    return f"{name} (family {facts['cpu family']}, model {facts['model']})" if "cpu family" in facts else name


def _version(name: str) -> str:
    if name in sys.modules:
        return str(sys.modules[name].__version__)
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def show(results: Results) -> None:
    """Print the tables: drawn on a terminal, aligned with spaces elsewhere."""
    for table in tables(results):
        if sys.stdout.isatty():
            _draw(table)
        else:
            print(_plain(table))


def _draw(table: Table) -> None:
    from rich.console import Console
    from rich.table import Table as RichTable

    drawn = RichTable(*table.head, title=table.title, caption=table.note)
    for line in table.lines:
        style = "green" if line[-1] == "reached" else "red" if line[-1].startswith("missed") else None
        drawn.add_row(*line, style=style)
    Console().print(drawn)


def _plain(table: Table) -> str:
    widths = [max(map(len, column)) for column in zip(table.head, *table.lines, strict=True)]
    lines = [table.head, ["-" * width for width in widths], *table.lines]
    rows = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([f"\n{table.title}", table.note, "", *rows])


def save(results: Results, folder: Path, quick: bool) -> list[Path]:
    """Write cpu.md, cpu.json and, if growth was measured, growth.png."""
    folder.mkdir(parents=True, exist_ok=True)
    page, data, picture = folder / "cpu.md", folder / "cpu.json", folder / "growth.png"
    page.write_text(markdown(results, quick), encoding="utf-8")
    data.write_text(json.dumps(as_json(results, quick), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    if not results.curves:
        return [page, data]
    draw(results.curves, picture)
    return [page, data, picture]


README = Path(__file__).resolve().parent.parent / "README.md"
BEGIN, END = "<!-- speed-table -->", "<!-- /speed-table -->"


def fill(readme: str, results: Results) -> str:
    """The README with its table of speed made anew."""
    head = ["gradients", "gradclip over the limit of memory", "the framework's time over gradclip's"]
    lines = [_row(head), _row(["---"] * len(head))]
    for found in (found for found in results.cases if found.case.telling):
        for row in found.case.rows[:1]:
            over_limit, over_ours = ratios(found, row)
            mark = "" if trusted(found, row) else " ~"
            lines.append(_row([found.case.name + mark, _short(over_limit), _short(over_ours)]))
    before, _, rest = readme.partition(BEGIN)
    return "\n".join([before + BEGIN, *lines, END]) + rest.partition(END)[2]


def _short(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}"


def markdown(results: Results, quick: bool) -> str:
    """The page with all tables."""
    lines = ["# The speed of clipping on a CPU", "", "Made by `python -m benchmarks --out docs/benchmarks`.", ""]
    if quick:
        lines += ["**A trial run with matrices cut short: these figures mean nothing.**", ""]
    lines += [f"- {name}: {value}" for name, value in machine().items()]
    for table in tables(results):
        lines += ["", f"## {table.title}", "", table.note, "", _row(table.head), _row(["---"] * len(table.head))]
        lines += [_row(line) for line in table.lines]
    if results.curves:
        lines += ["", "![Time against the number of tensors, and against bytes](growth.png)"]
    return "\n".join(lines) + "\n"


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def as_json(results: Results, quick: bool) -> dict[str, Any]:
    """Every sample and every ratio."""
    rows = []
    for found in results.cases:
        for row in found.case.rows:
            limit, peer = ratios(found, row)
            rows.append({"case": found.case.name, **row._asdict(), "over_limit": limit, "peer_over_ours": peer})
            rows[-1] |= {"verdict": verdict(found, row)}
    return {
        "version": 1,
        "trial": quick,
        "machine": machine(),
        "rows": rows,
        "seconds": {found.case.name: _timings(found.timings) for found in results.cases},
        "growth": {c.title: {str(n): _timings(t) for n, t in c.points.items()} for c in results.curves},
        "start": [start._asdict() for start in results.starts],
    }


def _timings(timings: dict[str, Any]) -> dict[str, Any]:
    return {name: {"median": timing.median, **timing._asdict()} for name, timing in timings.items()}
