"""A run on disk: a folder with `events.jsonl`, a line for each event, and `run.json`, what was clipped and by what."""

from __future__ import annotations

import errno
import json
import os
import platform
import time
import warnings
from pathlib import Path
from typing import Any, BinaryIO

from gradclip import __version__
from gradclip.errors import GradclipWarning, shortened, shown
from gradclip.step.respond import user_level
from gradclip.telemetry.event import Event
from gradclip.telemetry.lines import LONGEST, NUMBER, Each, fits, value_of
from gradclip.telemetry.tensor_names import NameWriter

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

EVENTS = "events.jsonl"
RUN = "run.json"
RUN_SCHEMA = 1
BLOCK = 1 << 16
LINE = json.JSONEncoder(allow_nan=False, separators=(",", ":"))
THRESHOLD = {"name": str, "value": NUMBER, "where": str, "kind?": str}
FACTS: dict[str, Any] = {
    "schema": int,
    "starts": [NUMBER],
    "rule": (type(None), dict),
    "script": {"arguments?": [str], "thresholds?": [THRESHOLD], "hash?": str, "unseen?": [str]},
    "parameters": Each([int]),
    **dict.fromkeys(
        ("sentence", "framework", "framework_version", "optimizer", "variable", "where", "python", "gradclip"), str
    ),
}
"""The kinds of what a `run.json` says."""


class jsonl:  # noqa: N801  # a sink reads as a function: Telemetry(jsonl("runs/first"))
    """Writes a run to the folder `path`, which `read_run` reads; in a folder with a run it goes on with that one.

    Each event is one write of one line without a buffer, so whatever kills the process, the lines before stay whole;
    a torn last line is cut off when the run goes on. `run.json` says what is clipped, by which versions, since when;
    it is that of the latest start, and `starts` has the times of all. Nothing is made before the first event.

    A folder that another process, or another run of this one, is writing to is left to it: this run goes to the first
    free of path-2, path-3, ... with a `GradclipWarning`. If the events are removed meanwhile, a new file is begun, with
    a warning. Raises `NotADirectoryError` for a file and `OSError` where nothing can be written.

    >>> import tempfile
    >>> weight = torch.nn.Parameter(torch.zeros(2))
    >>> weight.grad = torch.tensor([3.0, 4.0])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with gradclip.telemetry.Telemetry(jsonl(folder)) as telemetry:
    ...         result = gradclip.torch.Clipper(gradclip.ClipGradByNorm(1.0), telemetry=telemetry).clip_([weight])
    ...     sorted(os.listdir(folder))
    ['events.jsonl', 'run.json']
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = self._wanted = checked_path(path)
        if self.path.exists() and not self.path.is_dir():
            raise NotADirectoryError(f"a run is a folder, and {self.path} is a file: give another path")
        self._file: BinaryIO | None = None
        self._about: dict[str, Any] = {}
        self._process = 0
        self._names = NameWriter()

    def begin(self, about: dict[str, Any]) -> None:
        """Make the folder and its `run.json`, and open the events at their last whole line."""
        self._about, self._process = about, os.getpid()
        try:
            self._open()
            self._write_facts()
        except OSError as error:
            self.close()
            raise type(error)(error.errno, error.strerror, error.filename or str(self.path)) from None
        if self.path != self._wanted:
            warn_of(f"another process writes the run {self._wanted}, so this one is written to {self.path}")

    def __call__(self, event: Event) -> None:
        """Append the line of `event`, and where its tensors have other names than before a line of those."""
        if self._file is None:
            self.begin(self._about)
        elif os.getpid() != self._process or not os.fstat(self._file.fileno()).st_nlink:
            self._begin_anew()
        assert self._file is not None
        line = b"".join(LINE.encode(data).encode() + b"\n" for data in self._names.lines_of(event))
        if self._file.write(line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path / EVENTS))

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __repr__(self) -> str:
        return f"jsonl({str(self.path)!r})"

    def _open(self) -> None:
        """Open the events of the first folder that nobody else writes to."""
        self._names = NameWriter()
        number = 1
        self.path = self._wanted
        while True:
            self.path.mkdir(parents=True, exist_ok=True)
            file = open(self.path / EVENTS, "a+b", buffering=0)  # noqa: SIM115  # closed by `close`
            if locked(file):
                break
            file.close()
            number += 1
            self.path = self._wanted.with_name(f"{self._wanted.name}-{number}")
        self._file = file
        cut_torn_line(file)

    def _write_facts(self) -> None:
        versions = {"python": platform.python_version(), "gradclip": __version__}
        before, _ = facts_in(self.path / RUN)
        facts = {"schema": RUN_SCHEMA, "starts": [*before.get("starts", []), time.time()], **versions, **self._about}
        new = self.path / f"{RUN}.new"
        new.write_text(json.dumps(facts, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        new.replace(self.path / RUN)

    def _begin_anew(self) -> None:
        """Go on in a new file: the old one is that of the process which this one was forked from, or was removed."""
        self.close()
        if os.getpid() == self._process:
            warn_of(f"{self.path / EVENTS} was removed while it was written: the run goes on in a new file")
        self.begin(self._about)


def write_whole(file: Path, data: bytes) -> None:
    """Write a file, and leave none behind where a new one cannot be written to its end."""
    there = file.exists()
    try:
        file.write_bytes(data)
    except OSError:
        if not there:
            file.unlink(missing_ok=True)
        raise


def checked_path(path: object, what: str = "a run is the name of a folder") -> Path:
    """`path` as a path, or the error that says what it is to be."""
    name = os.fspath(path) if isinstance(path, str | os.PathLike) else None
    if not isinstance(name, str) or not name:
        raise TypeError(f"{what}, got {shown(path)}: write 'runs/first'")
    return Path(name)


def warn_of(said: object) -> None:
    """Say what is wrong with a run on disk."""
    warnings.warn(str(said), GradclipWarning, stacklevel=user_level())


def locked(file: BinaryIO) -> bool:
    """Whether `file` is this run's alone, until it is closed or its process ends; so where a system has no locks."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.EINVAL):
            raise
    return True


def facts_in(path: Path) -> tuple[dict[str, Any], list[str]]:
    """What a `run.json` says, and sentences about what is damaged or of a wrong kind in it, which is left out."""
    if not path.is_file():
        return {}, []
    try:
        with open(path, "rb") as file:
            text = file.read(LONGEST + 1)
        found = value_of(None if len(text) > LONGEST else text)
        if not isinstance(found, dict):
            raise ValueError("it is no object")
    except (ValueError, RecursionError) as error:
        return {}, [f"{path} cannot be read: {shortened(str(error))}"]
    wrong = [name for name, kind in FACTS.items() if name in found and not fits(found[name], kind)]
    facts = {name: value for name, value in found.items() if name not in wrong}
    return facts, [f"{path}: {name!r} is of a wrong kind and left out" for name in wrong]


def cut_torn_line(file: BinaryIO) -> None:
    """Cut off what stands behind the last line break."""
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
