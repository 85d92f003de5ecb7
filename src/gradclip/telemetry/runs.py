"""Runs read back: the events of a run, and what stands beside them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from gradclip.telemetry.event import Event
from gradclip.telemetry.folder import EVENTS, RUN

HERE = Path()


class Run(list[Event]):
    """The events of a run, by step.

    `about` has what its `run.json` says (rule, framework, versions, shapes of the parameters), nothing where there is
    none; `path` is its folder.
    """

    def __init__(self, events: Iterable[Event] = (), about: Mapping[str, Any] | None = None, path: Path = HERE) -> None:
        super().__init__(events)
        self.about = dict(about or {})
        self.path = path


def read_run(path: str | os.PathLike[str]) -> Run:
    """The run in the folder `path` (or of an `events.jsonl`).

    A torn last line is left out. Of a step that was made twice, because the training went on from a checkpoint, the
    later event counts. Raises `FileNotFoundError` where there is no run, and `ValueError` that names the file and the
    line for one that is no event.
    """
    file = Path(path) / EVENTS if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"{path} is no run: a run is a folder with {EVENTS}, as jsonl(path) writes it")
    complete, _, _ = file.read_bytes().rpartition(b"\n")
    by_step: dict[int, Event] = {}
    for number, line in enumerate(complete.split(b"\n") if complete else [], 1):
        try:
            event = Event.from_dict(json.loads(line))
        except ValueError as error:
            raise ValueError(f"{file}, line {number}: {error}") from error
        by_step[event.step] = event
    return Run((by_step[step] for step in sorted(by_step)), facts_in(file.parent / RUN), file.parent)


def folders_of(path: str | os.PathLike[str]) -> list[Path]:
    """The folder of a run, and those in it where the runs of further optimizers are."""
    folder = Path(path)
    inner = sorted(
        (file.parent for file in folder.glob(f"*/{EVENTS}")),
        key=lambda file: (len(file.name), file.name),
    )
    return [folder, *inner]


def facts_in(path: Path) -> dict[str, Any]:
    """What a `run.json` says; `ValueError` names one that is none."""
    if not path.exists():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error
