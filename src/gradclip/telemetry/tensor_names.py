"""The names of a run's tensors: once in a line of their own, and in each event only the norms in that order."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from typing import Any

from gradclip.telemetry.event import SCHEMA, Event, refuse_schema

MOST = 64
"""The orders of names that are known at a time: a step in which some tensor has no gradient has one of its own."""


class NameWriter:
    """Makes of events what is written of them."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, ...], int] = {}

    def lines_of(self, event: Event) -> Iterator[dict[str, Any]]:
        """The line of `event`, and before it that of its names if it is the first that has these."""
        data = event.to_dict()
        if not event.tensors:
            yield data
            return
        names = tuple(event.tensors)
        if names not in self._known:
            if len(self._known) == MOST:
                self._known.clear()
            self._known[names] = number_of(names)
            yield {"schema": SCHEMA, "names": self._known[names], "tensors": list(names)}
        yield {**data, "names": self._known[names], "tensors": list(data["tensors"].values())}


def number_of(names: Sequence[str]) -> int:
    """The number by which events mean these names; of other names, as a later part may have, it is another."""
    return zlib.crc32("\n".join(names).encode("utf-8", "backslashreplace"))


class NameReader:
    """Makes events of what was written; of schema 1, where each has the names, too."""

    def __init__(self) -> None:
        self._known: dict[int, list[str]] = {}

    def event_in(self, line: Any) -> Event | None:
        """The event of a line, None of one that has names; `ValueError` for what is neither.

        An event whose names are lost with a damaged line has no tensors.
        """
        refuse_schema(line)
        tensors = line.get("tensors")
        if not isinstance(tensors, list):
            return Event.from_dict(line)
        number = line.get("names")
        if type(number) is not int:
            raise ValueError("the norms of tensors have no names")
        if "step" not in line:
            if not all(type(name) is str for name in tensors):
                raise ValueError("the names of tensors are texts")
            self._known[number] = tensors
            return None
        names = self._known.get(number)
        if names is None:
            return Event.from_dict({**line, "tensors": None})
        if len(names) != len(tensors):
            raise ValueError(f"an event has the norms of {len(tensors)} tensors, and there are {len(names)} names")
        return Event.from_dict({**line, "tensors": dict(zip(names, tensors, strict=True))})
