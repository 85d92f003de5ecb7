"""A run on disk: a folder with `events.jsonl`, a line for each event, and `run.json`, what was clipped and by what."""

from __future__ import annotations

import errno
import json
import os
import platform
import time
from pathlib import Path
from typing import Any, BinaryIO

from gradclip import __version__
from gradclip.telemetry.event import Event

EVENTS = "events.jsonl"
RUN = "run.json"
RUN_SCHEMA = 1
BLOCK = 1 << 16
LINE = json.JSONEncoder(allow_nan=False, separators=(",", ":"))


class jsonl:  # noqa: N801  # a sink reads as a function: Telemetry(jsonl("runs/first"))
    """Writes a run to the folder `path`, which `read_run` reads; in a folder with a run it goes on with that one.

    Each event is one write of one line without a buffer, so whatever kills the process, the lines before stay whole;
    a torn last line is cut off when the run goes on. `run.json` says what is clipped, by which versions, since when;
    it is that of the latest start, and `starts` has the times of all. Nothing is made before the first event. Raises
    `NotADirectoryError` for a file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if self.path.exists() and not self.path.is_dir():
            raise NotADirectoryError(f"a run is a folder, and {self.path} is a file: give another path")
        self._file: BinaryIO | None = None

    def begin(self, about: dict[str, Any]) -> None:
        """Make the folder and its `run.json`, and open the events at their last whole line."""
        self.path.mkdir(parents=True, exist_ok=True)
        versions = {"python": platform.python_version(), "gradclip": __version__}
        starts = [*starts_in(self.path / RUN), time.time()]
        facts = {"schema": RUN_SCHEMA, "starts": starts, **versions, **about}
        new = self.path / f"{RUN}.new"
        new.write_text(json.dumps(facts, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        new.replace(self.path / RUN)
        cut_torn_line(self.path / EVENTS)
        self._file = open(self.path / EVENTS, "ab", buffering=0)  # noqa: SIM115  # closed by `close`

    def __call__(self, event: Event) -> None:
        """Append the line of `event`."""
        line = LINE.encode(event.to_dict()).encode() + b"\n"
        if self._file is None:
            self.begin({})
        assert self._file is not None
        if self._file.write(line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path / EVENTS))

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __repr__(self) -> str:
        return f"jsonl({str(self.path)!r})"


def starts_in(path: Path) -> list[float]:
    """When the run was started before."""
    return list(json.loads(path.read_text(encoding="utf-8"))["starts"]) if path.exists() else []


def cut_torn_line(path: Path) -> None:
    """Cut off what stands behind the last line break."""
    if not path.exists():
        return
    with open(path, "r+b") as file:
        end = size = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - BLOCK)
            file.seek(start)
            found = file.read(end - start).rfind(b"\n")
            if found >= 0:
                end = start + found + 1
                break
            end = start
        if end < size:
            file.truncate(end)
