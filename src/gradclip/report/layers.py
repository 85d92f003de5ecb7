"""The heat map: the norm of each layer over time, where the events have the norms of the tensors."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from gradclip.report.downsampling import buckets
from gradclip.telemetry.event import Event
from gradclip.verdict.formatting import count

ROWS, FEWEST_ROWS = 48, 8
COLUMNS = 160


@dataclass(frozen=True)
class Heat:
    """The largest finite norm of each row in each column, NaN where there is none.

    `spans` has the first and the last step of each column, `broken` the places (row, column) with a non-finite norm,
    `note_on` what was put together or left out.
    """

    rows: list[str]
    spans: list[tuple[int, int]]
    norms: list[list[float]]
    broken: list[tuple[int, int]]
    note: str


def heat_of(events: Sequence[Event], most_rows: int = ROWS, most_columns: int = COLUMNS) -> Heat | None:
    """The heat map of a run with at most so many rows and columns; None where no event has the norms of tensors."""
    with_tensors = [event for event in events if event.tensors]
    names = list(dict.fromkeys(name for event in with_tensors for name in event.tensors or {}))
    if not names:
        return None
    row_of = layers_of(names, most_rows)
    columns = buckets(len(with_tensors), most_columns)
    cells = [largest_in([with_tensors[place].tensors or {} for place in column], row_of) for column in columns]
    rows = strongest(list(dict.fromkeys(row_of.values())), cells, most_rows)
    return Heat(
        rows=rows,
        spans=[(with_tensors[column[0]].step, with_tensors[column[-1]].step) for column in columns],
        norms=[[cell[0].get(row, math.nan) for cell in cells] for row in rows],
        broken=[(r, c) for r, row in enumerate(rows) for c, cell in enumerate(cells) if row in cell[1]],
        note=note(len(names), len(set(row_of.values())), len(rows), len(columns) < len(with_tensors)),
    )


def layers_of(names: Sequence[str], most: int) -> dict[str, str]:
    """The row of each tensor: itself, or the longest common beginning of names that leaves at most `most` rows.

    Where that would leave fewer than 8 rows, the beginning is one part longer, and there are more than `most`.

    >>> layers_of(["a.0.w", "a.0.b", "a.1.w"], 2)
    {'a.0.w': 'a.0', 'a.0.b': 'a.0', 'a.1.w': 'a.1'}
    """
    deepest = max(name.count(".") for name in names) + 1
    chosen = {name: name for name in names}
    for depth in range(deepest, 0, -1):
        shorter = {name: ".".join(name.split(".")[:depth]) for name in names}
        rows = len(set(shorter.values()))
        if rows < min(FEWEST_ROWS, most):
            break
        chosen = shorter
        if rows <= most:
            break
    return chosen


def largest_in(tensors: Iterable[Mapping[str, float]], row_of: Mapping[str, str]) -> tuple[dict[str, float], set[str]]:
    """The largest finite norm of each row over some steps, and the rows with a non-finite one."""
    largest: dict[str, float] = {}
    broken: set[str] = set()
    for norms in tensors:
        for name, norm in norms.items():
            row = row_of[name]
            if not math.isfinite(norm):
                broken.add(row)
            elif norm > largest.get(row, -1.0):
                largest[row] = norm
    return largest, broken


def strongest(rows: Sequence[str], cells: Sequence[tuple[dict[str, float], set[str]]], most: int) -> list[str]:
    """The rows with the largest norms, in the order of the model; broken ones before all others."""
    tops = {row: max((cell[0].get(row, 0.0) for cell in cells), default=0.0) for row in rows}
    hurt = {row for cell in cells for row in cell[1]}
    chosen = set(sorted(rows, key=lambda row: (row not in hurt, -tops[row]))[:most])
    return [row for row in rows if row in chosen]


def note(tensors: int, layers: int, rows: int, bucketed: bool) -> str:
    """What was put together and left out, in words."""
    parts = [f"{count(tensors, 'tensor')}"]
    if layers < tensors:
        parts.append(
            f"put together by the beginnings of their names into {count(layers, 'row')}, each the largest norm"
        )
    if rows < layers:
        parts.append(f"the {rows} with the largest norms are shown")
    if bucketed:
        parts.append("each cell is the largest norm of its steps")
    return "; ".join(parts) + "."
