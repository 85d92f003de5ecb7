"""What each process measured, told to the first one in files: none of them ever waits for another in a step.

A collective would be entered by whoever is watched and steps; one process that fails, or makes other steps, would hang
all. So each writes what it has, some steps in a file, and the first process takes it from there when it writes the run.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from gradclip.telemetry.folder import locked

MOST_UNREAD = 64
"""The files of a process that nobody has read: on another machine nobody will."""
AGAIN = 0.05
"""Seconds between two looks for what others have told."""
Part = dict[int, tuple[float, float]]
"""By place in the optimizer the norm of what a process has of a gradient, and its non-finite elements."""


class Called(NamedTuple):
    """A clip as one process called it: its line, the library that made it, the norm that it returned, if any, and
    whether it acts; of a rule of this library the coefficient and the threshold of what it clipped hardest."""

    where: str
    by: str
    norm: float | None
    acts: bool
    coefficient: float = 1.0
    threshold: float = math.inf


class StepShare(NamedTuple):
    """What one process measured in one step: by the name of each set of gradients its part, and the clips.

    `compares` says that copies were measured, too, to be compared, and `sends` that it has sent tensors to single
    other processes.
    """

    step: int
    parts: Mapping[str, Part]
    calls: Sequence[Called] = ()
    compares: bool = False
    sends: bool = False


class Layout(NamedTuple):
    """The parameters of a process: the name and the shape of each, and whether it is sharded."""

    parameters: Sequence[tuple[str, tuple[int, ...], bool]] = ()

    def is_like(self, other: Layout, place: int) -> bool:
        """Whether both have the same parameter there, whatever it is called."""
        known = place < min(len(self.parameters), len(other.parameters))
        return known and self.parameters[place][1:] == other.parameters[place][1:]


def job() -> str:
    """What the processes that train together have alike, and those of another job of the same script may not have."""
    known = [os.environ.get(name, "") for name in ("MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RESTART_COUNT")]
    return "-".join(["job", *("".join(letter if letter.isalnum() else "_" for letter in word) for word in known)])


class ShareWriter:
    """Writes the shares of the process of this `rank` to `folder`, and holds a lock there as long as it may tell."""

    def __init__(self, folder: Path, rank: int) -> None:
        self._folder, self._rank = folder, rank
        folder.mkdir(parents=True, exist_ok=True)
        new = lock_of(folder, rank).with_suffix(".new")
        self._lock: BinaryIO = open(new, "ab")  # noqa: SIM115  # closed by `close`
        locked(self._lock)
        new.replace(lock_of(folder, rank))  # locked before anybody finds it
        self._number = 0
        self._unread: list[Path] = []

    def write(self, layout: Layout, shares: Sequence[StepShare]) -> None:
        """Tell of some steps; nobody who looks meanwhile finds half a file."""
        if len(self._unread) >= MOST_UNREAD:
            self._unread = [file for file in self._unread if file.exists()]
        if not shares or len(self._unread) >= MOST_UNREAD:
            return
        file = self._folder / f"{self._rank}.{self._number:09}.json"
        new = file.with_suffix(".new")
        new.write_text(
            json.dumps({"layout": layout.parameters, "shares": list(map(as_data, shares))}), encoding="utf-8"
        )
        new.replace(file)
        self._unread.append(file)
        self._number += 1

    def close(self) -> None:
        """Tell nothing more."""
        self._lock.close()


class ShareReader:
    """Takes what the `others` tell in `folder`; what lies there from before the time `since` is none of this job's."""

    def __init__(self, folder: Path, others: Iterable[int], since: float) -> None:
        self._folder, self.others = folder, frozenset(others)
        self._since, self._looked = since - 1.0, 0.0
        self._shares: dict[int, dict[int, StepShare]] = {}
        self.layouts: dict[int, Layout] = {}
        self.lost: set[int] = set()

    def of(self, step: int) -> Mapping[int, StepShare]:
        """What others have told of a step, by their rank."""
        return self._shares.get(step, {})

    def waiting_for(self, step: int, wanted: Collection[int] | None) -> set[int]:
        """Those of the `wanted` ranks, or of all, that have not told of a step and may do so yet."""
        ranks = (self.others if wanted is None else self.others.intersection(wanted)) - self.lost
        self._read()
        self.lost |= {rank for rank in ranks - self.of(step).keys() if self._has_ended(rank)}
        return set(ranks - self.of(step).keys() - self.lost)

    def forget(self, step: int) -> None:
        """Drop what was told of the steps up to this one."""
        for known in [known for known in self._shares if known <= step]:
            del self._shares[known]

    def _has_ended(self, rank: int) -> bool:
        """Whether a process holds its lock no longer; what it told before is read then."""
        try:
            with open(lock_of(self._folder, rank), "rb") as file:
                ended = os.fstat(file.fileno()).st_mtime >= self._since and locked(file)
        except OSError:
            return False
        if ended:
            self._read(at_once=True)
        return ended

    def _read(self, at_once: bool = False) -> None:
        now = time.monotonic()
        if now - self._looked < AGAIN and not at_once:
            return
        self._looked = now
        for file in sorted(self._folder.glob("*.json")):
            self._take(file)

    def _take(self, file: Path) -> None:
        """Read a file, once, of another process."""
        rank = int(file.name.partition(".")[0])
        if rank not in self.others:
            return
        with contextlib.suppress(OSError, ValueError):
            fresh = file.stat().st_mtime >= self._since
            told = json.loads(file.read_text(encoding="utf-8"))
            if fresh:
                self.layouts[rank] = Layout([(name, tuple(shape), cut) for name, shape, cut in told["layout"]])
                for data in told["shares"]:
                    share = from_data(data)
                    self._shares.setdefault(share.step, {})[rank] = share
        file.unlink(missing_ok=True)


def lock_of(folder: Path, rank: int) -> Path:
    """The file that a process holds as long as it may tell."""
    return folder / f"{rank}.lock"


def as_data(share: StepShare) -> dict[str, Any]:
    """A share for JSON, in which keys are texts."""
    parts = {name: [list(part), list(part.values())] for name, part in share.parts.items()}
    return {**share._asdict(), "parts": parts}


def from_data(data: Mapping[str, Any]) -> StepShare:
    """The share that became `data`."""
    parts = {
        name: dict(zip(places, [(norm, count) for norm, count in values], strict=True))
        for name, (places, values) in data["parts"].items()
    }
    return StepShare(**{**data, "parts": parts, "calls": [Called(*call) for call in data["calls"]]})
