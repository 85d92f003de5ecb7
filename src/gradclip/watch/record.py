"""The run of one optimizer on disk, and beside its events `calls.jsonl`, what the script did around its steps."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

import torch

from gradclip.step.result import Result
from gradclip.telemetry.folder import jsonl
from gradclip.telemetry.observed import event_of
from gradclip.watch.journal import ABOVE, CALLS, SCRIPT, Flaw, Loss
from gradclip.watch.seen import joined
from gradclip.watch.steps import Step, event_and_flaws, loss_of

MOST, LONGEST = 50, 1.0
"""How many steps are read together, which costs a third of reading each by itself, and how long one may wait."""


class Noted(NamedTuple):
    """A step that was not read yet, and which parameters with a gradient its clips left out."""

    step: Step
    flaw: str | None
    missing: list[int]


class Record:
    """Writes the steps of an optimizer. A line of `calls.jsonl` holds until the next one: it is what changed."""

    def __init__(self, folder: Path, names: Mapping[int, str]) -> None:
        self.folder = folder
        self._names = names
        self._sink = jsonl(folder)
        self._pending: list[Noted] = []
        self._asked: list[dict[str, Any]] = []
        self._pattern: dict[str, Any] | None = None

    def begin(self, optimizer: str, shapes: dict[str, list[int]], asked: list[dict[str, Any]]) -> None:
        """Write what is known before the first step."""
        self._asked = asked
        script = {"arguments": sys.argv, "asked": asked}
        versions = {"framework": "torch", "framework_version": torch.__version__}
        self._sink.begin({**versions, "optimizer": optimizer, "parameters": shapes, SCRIPT: script})

    def note(self, step: Step, flaw: str | None, missing: list[int]) -> None:
        """Take in a step, and read all that are waiting if they are many, or the first waits for `LONGEST` seconds."""
        self._pending.append(Noted(step, flaw, missing))
        if len(self._pending) >= MOST or step.time - self._pending[0].step.time >= LONGEST or not step.number:
            self.drain()

    def drain(self) -> None:
        """Write the steps that are waiting."""
        pending, self._pending = self._pending, []
        for step, flaw, missing in pending:
            event, flaws = event_and_flaws(step, self._names)
            if flaw is not None:
                flaws.append(Flaw(flaw, step.examined.applied[-1].clip.where))
            self._sink(event)
            self._tell(step.number, {**self._calls(step), "flaws": flaws, "missing": self._named(missing)})

    def _calls(self, step: Step) -> dict[str, list[str]]:
        """The calls that clipped, those that only measured, and the thresholds that nothing applied."""
        clips = [one.clip for one in step.examined.applied]
        elements = {} if step.peak is None else step.peak.read(float(step.divisor))
        peak = joined((largest for largest, _ in elements.values()), inf)
        return {
            "calls": [clip.sentence() for clip in clips if not clip.measures],
            "measured": [clip.sentence() for clip in clips if clip.measures],
            "unclipped": [one["name"] for one in self._asked if peak > ABOVE * one["value"]],
        }

    def _named(self, parameters: list[int]) -> list[str]:
        return [self._names.get(parameter, "?") for parameter in parameters]

    def take(self, result: Result, rule: str, step: int, flaws: list[Flaw], losses: Sequence[Loss]) -> None:
        """Write the step of a clipper of this library, which knows best what it did."""
        self._sink(replace(event_of(result, rule, time.time()), step=step, loss=loss_of(losses)))
        self._tell(step, {"calls": [f"gradclip: {rule}"], "flaws": flaws, "missing": []})

    def close(self) -> None:
        """Write what is left."""
        self.drain()
        self._sink.close()

    def _tell(self, step: int, pattern: dict[str, Any]) -> None:
        if pattern == self._pattern:
            return
        self._pattern = pattern
        with open(self.folder / CALLS, "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **pattern}) + "\n")


def claimed(folder: Path) -> Path:
    """`folder`, or the first of run-2, run-3, ... in it that nobody has; it is made, so nobody else takes it."""
    place, number = folder, 1
    while True:
        try:
            place.mkdir(parents=True)
        except FileExistsError:
            number += 1
            place = folder / f"run-{number}"
        else:
            return place
