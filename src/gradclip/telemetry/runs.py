"""Runs read back: the events of a run, and what stands beside them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from gradclip.errors import shown
from gradclip.telemetry.event import Event
from gradclip.telemetry.folder import EVENTS, RUN, checked_path, facts_in, warn_of
from gradclip.telemetry.lines import NewerSchema, read_lines
from gradclip.telemetry.tensor_names import NameReader

HERE = Path()


class Run(list[Event]):
    """The events of a run, by step.

    `about` has what its `run.json` says (rule, framework, versions, shapes of the parameters), nothing where there is
    none; `path` is its folder.

    >>> run = Run([Event(0, "", "cpu", 5.0, 1.0, 1.0, 0.2, True)], {"optimizer": "Adam"})
    >>> len(run), run[0].clipped, run.optimizer
    (1, True, 'Adam')
    """

    def __init__(self, events: Iterable[Event] = (), about: Mapping[str, Any] | None = None, path: Path = HERE) -> None:
        super().__init__(events)
        if not isinstance(about, Mapping | None):
            raise TypeError(f"about is a dict of what is known of the run, or None, got {shown(about)}")
        self.about: dict[str, Any] = dict(about or {})
        self.path = path

    @property
    def optimizer(self) -> str:
        """The optimizer as a person knows it: its class, its name in the script and the line of its step."""
        kind, variable, where = (self.about.get(name, "") for name in ("optimizer", "variable", "where"))
        return " ".join(filter(None, [kind or "an optimizer", variable, where and f"({where})"]))


def read_run(path: str | os.PathLike[str]) -> Run:
    """The run in the folder `path` (or of an `events.jsonl`).

    Of a step that was made twice, because the training went on from a checkpoint, the later event counts. Lines that a
    disk or a person damaged are left out with a `GradclipWarning` that counts them (a torn last line without one), and
    so is what `run.json` has of a wrong kind; memory is bounded by the size of the file. Raises `FileNotFoundError`
    where there is no run, and `ValueError` for a file without an event but with lines, or of a later gradclip.

    >>> import tempfile
    >>> from gradclip.telemetry import jsonl
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sink = jsonl(folder)
    ...     sink.begin({})
    ...     sink(Event(0, "", "cpu", 5.0, 1.0, 1.0, 0.2, True))
    ...     sink.close()
    ...     len(read_run(folder))
    1
    """
    file = checked_path(path)
    file = file / EVENTS if file.is_dir() else file
    if not file.is_file():
        raise FileNotFoundError(f"{path} is no run: a run is a folder with {EVENTS}, as jsonl(path) writes it")
    by_step: dict[int, Event] = {}

    reader = NameReader()

    def take(data: Any) -> None:
        if event := reader.event_in(data):
            by_step[event.step] = event

    try:
        damage = read_lines(file, take)
    except NewerSchema as error:
        raise ValueError(f"{file}: {error}") from None
    if damage.lines and not by_step:
        raise ValueError(f"{file} has no event: line {damage.first}, {damage.reason}")
    about, wrong = facts_in(file.parent / RUN)
    for said in (*([damage] if damage.lines else []), *wrong):
        warn_of(said)
    return Run((by_step[step] for step in sorted(by_step)), about, file.parent)


def folders_of(path: str | os.PathLike[str]) -> list[Path]:
    """The folder of a run, and those in it where the runs of further optimizers are."""
    folder = checked_path(path)
    inner = sorted(
        (file.parent for file in folder.glob(f"*/{EVENTS}")),
        key=lambda file: (len(file.name), file.name),
    )
    return [folder, *inner]
