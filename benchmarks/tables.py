"""Tables: their lines, on a terminal, as plain text and as Markdown."""

from __future__ import annotations

import importlib.util
import sys
import textwrap
from collections.abc import Iterable
from typing import NamedTuple

from benchmarks.goals import Found, Goal, Row, ratios, verdict
from benchmarks.sampling import Timing


class Table(NamedTuple):
    """A table with what is to be known to read it."""

    title: str
    note: str
    head: list[str]
    lines: list[list[str]]


RATIO_HEAD = ["gradients", "gradclip", "over", "ratio", "peer", "ratio", "goal"]
TIME_HEAD = ["gradients", "candidate", "median", "quartiles", "samples"]


def goal_line(found: Found, row: Row) -> list[str]:
    """A line below `RATIO_HEAD`."""
    over_limit, over_ours = ratios(found, row)
    return [
        found.case.name,
        row.ours,
        "" if row.limit is None else row.limit.candidate,
        _against(over_limit, "≤", row.limit),
        "" if row.peer is None else row.peer.candidate,
        _against(over_ours, "≥", row.peer),
        verdict(found, row),
    ]


def _against(ratio: float | None, sign: str, goal: Goal | None) -> str:
    if ratio is None or goal is None:
        return ""
    return f"{ratio:.2f} {bound(sign, goal.ratio)}".strip()


def bound(sign: str, value: float | None) -> str:
    """A goal in brackets."""
    return "" if value is None else f"({sign} {value:g})"


def time_line(found: Found, name: str) -> list[str]:
    """A line below `TIME_HEAD`."""
    timing = found.timings[name]
    low, high = timing.quartiles
    return [found.case.name, name, median(timing), f"{_ms(low)} to {_ms(high)}", counts(timing)]


def median(timing: Timing) -> str:
    """Milliseconds, marked where they are not to be trusted."""
    return ("" if timing.trusted else "~") + _ms(timing.median)


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.2f}" if seconds >= 1e-3 else f"{1e3 * seconds:.4f}"


def counts(timing: Timing) -> str:
    """How many samples count, of how many."""
    return f"{timing.quiet} of {timing.taken}"


def show(tables: Iterable[Table]) -> None:
    """Print the tables: drawn on a terminal if rich is installed, aligned with spaces elsewhere."""
    drawn = sys.stdout.isatty() and importlib.util.find_spec("rich") is not None
    for table in tables:
        if drawn:
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
    return "\n".join([f"\n{table.title}", *textwrap.wrap(table.note, 100), "", *rows])


def markdown(table: Table) -> list[str]:
    """A chapter of a page."""
    return ["", f"## {table.title}", "", table.note, "", *rows_of(table.head, table.lines)]


def rows_of(head: list[str], lines: Iterable[list[str]]) -> list[str]:
    """The rows of a table in Markdown."""
    return [_row(cells) for cells in (head, ["---"] * len(head), *lines)]


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
