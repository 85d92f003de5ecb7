"""Where the tables of a CPU go: a Markdown page, JSON, a picture, the README."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.goals import as_data, ratios, seconds_of, trusted
from benchmarks.growth import draw
from benchmarks.machine import machine
from benchmarks.report import Results, tables
from benchmarks.tables import markdown, rows_of


def save(results: Results, folder: Path, quick: bool) -> list[Path]:
    """Write cpu.md, cpu.json and, if growth was measured, growth.png."""
    folder.mkdir(parents=True, exist_ok=True)
    page, data, picture = folder / "cpu.md", folder / "cpu.json", folder / "growth.png"
    page.write_text(markdown_of(results, quick), encoding="utf-8")
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
    lines = []
    for found in (found for found in results.cases if found.case.telling):
        for row in found.case.rows[:1]:
            over_limit, over_ours = ratios(found, row)
            mark = "" if trusted(found, row) else " ~"
            lines.append([found.case.name + mark, _short(over_limit), _short(over_ours)])
    before, _, rest = readme.partition(BEGIN)
    return "\n".join([before + BEGIN, *rows_of(head, lines), END]) + rest.partition(END)[2]


def _short(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}"


def markdown_of(results: Results, quick: bool) -> str:
    """The page with all tables."""
    lines = ["# The speed of clipping on a CPU", "", "Made by `python -m benchmarks --out docs/benchmarks`.", ""]
    if quick:
        lines += ["**A trial run with matrices cut short: these figures mean nothing.**", ""]
    lines += [f"- {name}: {value}" for name, value in machine().items()]
    for table in tables(results):
        lines += markdown(table)
    if results.curves:
        lines += ["", "![Time against the number of tensors, and against bytes](growth.png)"]
    return "\n".join(lines) + "\n"


def as_json(results: Results, quick: bool) -> dict[str, Any]:
    """Every sample and every ratio."""
    return {
        "version": 1,
        "trial": quick,
        "machine": machine(),
        **as_data(results.cases),
        "growth": {c.title: {str(n): seconds_of(t) for n, t in c.points.items()} for c in results.curves},
        "start": [start._asdict() for start in results.starts],
    }
