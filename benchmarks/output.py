"""Where the tables of a CPU go: a Markdown page, JSON, a picture, the README."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks import overview, regression
from benchmarks.goals import as_data, seconds_of
from benchmarks.growth import draw
from benchmarks.machine import machine
from benchmarks.overview import HEAD, TELLING, drawable, line
from benchmarks.overview import draw as draw_speed
from benchmarks.regression import Samples
from benchmarks.report import Results, tables
from benchmarks.tables import markdown, rows_of


def save(results: Results, folder: Path, quick: bool, last: Samples) -> list[Path]:
    """Write cpu.md, cpu.json and, of what was measured, growth.png and speed.png."""
    folder.mkdir(parents=True, exist_ok=True)
    page, data, growth, speed = (folder / name for name in ("cpu.md", "cpu.json", "growth.png", "speed.png"))
    page.write_text(markdown_of(results, quick, last), encoding="utf-8")
    data.write_text(json.dumps(as_json(results, quick), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    written = [page, data]
    if results.curves:
        draw(results.curves, growth)
        written.append(growth)
    if drawn := drawable(results.cases):
        draw_speed(drawn, speed)
        written.append(speed)
    return written


README = Path(__file__).resolve().parent.parent / "README.md"
BEGIN, END = "<!-- speed-table -->", "<!-- /speed-table -->"


def fill(readme: str, results: Results) -> str:
    """The README with its table of speed made anew."""
    cases = {found.case.name: found for found in results.cases}
    lines = [line(cases[name], {})[:-1] for name in TELLING if name in cases]
    before, _, rest = readme.partition(BEGIN)
    return "\n".join([before + BEGIN, *rows_of(HEAD[:-1], lines), END]) + rest.partition(END)[2]


def markdown_of(results: Results, quick: bool, last: Samples) -> str:
    """The page with all tables."""
    lines = ["# The speed of clipping on a CPU", "", "Made by `python -m benchmarks --out docs/benchmarks`.", ""]
    if quick:
        lines += ["**A trial run with matrices cut short: these figures mean nothing.**", ""]
    lines += [f"- {name}: {value}" for name, value in machine().items()]
    for table in [overview.table(results.cases, last), *tables(results), regression.table(results.cases, last)]:
        lines += markdown(table) if table.lines else []
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
