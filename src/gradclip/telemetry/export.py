"""What the events of a run are exported to: one JSON document, or a table with a line for each step."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

from gradclip.telemetry.event import KINDS, NAMES, TENSORS, Event

MOST_CELLS, SPARSE = 1_000_000, 100
"""A table of more cells, and of more than so many for each number in it, is none of a training."""


def as_json(events: Sequence[Event]) -> bytes:
    """The events as one JSON document."""
    return json.dumps([event.to_dict() for event in events], allow_nan=False).encode()


def as_csv(events: Sequence[Event]) -> bytes:
    """The table as CSV with a line of names; nan and inf are words, and offenders are separated by spaces."""
    columns = columns_of(events)
    columns["offenders"] = [" ".join(names) for names in columns["offenders"]]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(columns)
    table.writerows(zip(*columns.values(), strict=True))
    return text.getvalue().encode()


def as_parquet(events: Sequence[Event]) -> bytes:
    """The table as Parquet, typed: numbers are 64 bits, nan and inf stay numbers, offenders are lists of names."""
    import pyarrow
    from pyarrow import parquet

    types = {int: pyarrow.int64(), float: pyarrow.float64(), bool: pyarrow.bool_(), str: pyarrow.string()}
    types[list] = pyarrow.list_(pyarrow.string())
    columns = columns_of(events)
    kinds = [KINDS[name][0] if name in KINDS else float for name in columns]
    schema = pyarrow.schema([(name, types[kind]) for name, kind in zip(columns, kinds, strict=True)])
    data = io.BytesIO()
    parquet.write_table(pyarrow.table(columns, schema=schema), data)
    return data.getvalue()


def columns_of(events: Sequence[Event]) -> dict[str, list[Any]]:
    """The columns of the table; `tensors.NAME` has the norm of a tensor, None where an event has none.

    Raises `ValueError` for a large table that would be nearly empty: it would be the square of its run in size.
    """
    columns = {name: [getattr(event, name) for event in events] for name in NAMES if name != "tensors"}
    norms = [event.tensors or {} for event in events]
    tensors = dict.fromkeys(name for tensor_norms in norms for name in tensor_norms)
    cells, held = len(tensors) * len(events), sum(map(len, norms))
    if cells > max(MOST_CELLS, SPARSE * held):
        raise ValueError(
            f"{len(tensors):,} names of tensors in {len(events):,} events make a table of {cells:,} cells, of which "
            f"{held:,} hold a number: export it with --json"
        )
    return columns | {TENSORS + name: [tensor_norms.get(name) for tensor_norms in norms] for name in tensors}
