"""The run of one optimizer on disk, and beside its events `calls.jsonl`, what the script did around its steps."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

import torch

from gradclip.step.result import Result
from gradclip.telemetry.event import Event
from gradclip.telemetry.folder import jsonl
from gradclip.telemetry.observed import event_of
from gradclip.watch import told
from gradclip.watch.gradient_norms import GradientNorms, combined_norm
from gradclip.watch.joining import is_known
from gradclip.watch.journal import ABOVE, CALLS, MICRO_STEP, NORM, SCRIPT, VALUE, Examined, Flaw, Loss
from gradclip.watch.others import Others
from gradclip.watch.shares import AGAIN
from gradclip.watch.step_events import WatchedStep, event_of_step, loss_of, own_code

MOST, LONGEST = 50, 1.0
"""How many steps are read together, which costs a third of reading each by itself, and how long one may wait."""
PATIENCE = 5.0
"""How many seconds a process that ends waits for what others have to tell, as long as they are there."""
UNKNOWN = "for not all processes told of their parts of the gradients, and no clip returned the norm of the whole"


class PendingStep(NamedTuple):
    """A step that was not read yet, and which parameters with a gradient its clips left out."""

    step: WatchedStep
    flaw: str | None
    missing: list[int]


class PendingResult(NamedTuple):
    """The event of a clipper of this library, what stands beside it, and what was measured around it."""

    step: WatchedStep
    event: Event
    calls: dict[str, Any]


class RunWriter:
    """Writes the steps of an optimizer. A line of `calls.jsonl` holds until the next one: it is what changed."""

    def __init__(self, folder: Path, names: Mapping[int, str], others: Others) -> None:
        self.folder = folder
        self._names = names
        self._others = others
        self._sink = jsonl(folder)
        self._pending: list[PendingStep | PendingResult] = []
        self._thresholds: list[dict[str, Any]] = []
        self._pattern: dict[str, Any] | None = None
        self._unknown = 0
        self._begun = False
        self._where = ""
        self.saw_own_code = False

    def name(self, parameters: Set[int], names: Callable[[], Mapping[int, str]]) -> None:
        """See that each of the `parameters` has a name, those too that the optimizer was given later."""
        if not self._names.keys() >= parameters:
            self._names = {**names(), **self._names}

    def begin(
        self,
        kind: str,
        variable: str,
        shapes: dict[str, list[int]],
        thresholds: list[dict[str, Any]],
        where: str,
        unseen: Sequence[str] = (),
    ) -> None:
        """Write what is known before the first step: the kind of the optimizer, its name, and the line of the step.

        `unseen` is what may clip where it is not seen.
        """
        self._thresholds, self._where = thresholds, where
        script = {"arguments": sys.argv, "thresholds": thresholds, "hash": hash_of_script()}
        script |= {"unseen": [*unseen]} if unseen else {}
        versions = {"framework": "torch", "framework_version": torch.__version__}
        known = {"optimizer": kind, "variable": variable, "where": where}
        told.begin(self.folder)
        self._sink.begin({**versions, **known, "parameters": shapes, SCRIPT: script})

    def add_step(self, step: WatchedStep, flaw: str | None, missing: list[int]) -> None:
        """Add a step, and read all that are waiting if they are many, or the first waits for `LONGEST` seconds."""
        self._pending.append(PendingStep(step, flaw, missing))
        if len(self._pending) >= MOST or step.time - self._pending[0].step.time >= LONGEST or not step.number:
            self.drain()

    def drain(self, last: bool = False) -> None:
        """Write the steps that are waiting, up to the first of which others have still to tell; the `last` time all."""
        while self._pending:
            first = self._pending[0]
            if not last and self._others.may_tell(first.step, len(self._pending)):
                self._write_meanwhile(first)
                return
            del self._pending[0]
            if isinstance(first, PendingResult):
                self._write_pending_result(first)
            else:
                self._write(first)

    def _write_meanwhile(self, first: PendingStep | PendingResult) -> None:
        """Write what is known of the first step of all, which a later line of it replaces."""
        if first.step.number or self._begun:
            return
        self._begun = True
        if isinstance(first, PendingResult):
            self._sink(first.event)
        elif is_known(step := self._others.joined(first.step)):
            self._sink(event_of_step(step, self._names)[0])

    def _write(self, pending: PendingStep) -> None:
        """Write a step, unless too little of it is known."""
        step, flaw, missing = pending._replace(step=self._others.joined(pending.step))
        if not is_known(step):
            self._unknown += 1
            return
        event, flaws = event_of_step(step, self._names)
        missing = [p for p in missing if (event.tensors or {}).get(self._names.get(p, "?")) != 0.0]
        if flaw is not None and missing:
            flaws.append(Flaw(flaw, step.examined.applied[-1].clip.where))
        across = self._others.flaws(pending.step)
        flaws = [flaw for flaw in flaws if flaw.name != MICRO_STEP or flaw.where not in {one.where for one in across}]
        flaws += across
        own = own_code(step)
        self.saw_own_code = self.saw_own_code or event.rule == own
        self._sink(event)
        self._write_calls(step.number, {**self._calls(step, own), "flaws": flaws, "missing": self._named(missing)})

    def _calls(self, step: WatchedStep, own: str) -> dict[str, list[str]]:
        """The calls that clipped, those that only measured, and the thresholds that nothing applied.

        The script's `own` code is a call, once it was seen to act: how often it does, the events say.
        """
        clips = [applied.clip for applied in step.examined.applied]
        measured = dict.fromkeys((NORM, VALUE), 0.0)
        if step.peak is not None:
            elements, norms = step.peak.read(float(step.divisor)), step.rest.read(float(step.divisor))
            measured[VALUE] = combined_norm((largest for largest, _ in elements.values()), inf)
            measured[NORM] = combined_norm((norm for norm, _ in norms.values()), step.rest.order)
        return {
            "calls": [clip.sentence() for clip in clips if not clip.measures] + [own] * self.saw_own_code,
            "measured": [clip.sentence() for clip in clips if clip.measures],
            "unclipped": [one["name"] for one in self._thresholds if measured[one["kind"]] > ABOVE * one["value"]],
        }

    def _named(self, parameters: list[int]) -> list[str]:
        return [self._names.get(parameter, "?") for parameter in parameters]

    def write_result(
        self,
        result: Result,
        rule: str,
        step: int,
        flaws: list[Flaw],
        losses: Sequence[Loss],
        around: WatchedStep | None,
    ) -> None:
        """Write the step of a clipper of this library, which knows best what it did.

        Where others have a part in it, or are compared, it waits for them with what was measured `around` it.
        """
        event = replace(event_of(result, rule, time.time()), step=step, loss=loss_of(losses))
        calls = {"calls": [f"gradclip: {rule}"], "flaws": flaws, "missing": []}
        if around is None and not self._pending:
            self._sink(event)
            self._write_calls(step, calls)
            return
        alone = around or WatchedStep(
            step, event.time, Examined([], []), GradientNorms([], 2.0, [], []), 1.0, where=self._where
        )
        self._pending.append(PendingResult(alone, event, calls))
        if len(self._pending) >= MOST or event.time - self._pending[0].step.time >= LONGEST or not step:
            self.drain()

    def _write_pending_result(self, pending: PendingResult) -> None:
        step, event, calls = pending
        self._sink(self._others.event_of_all(event, step))
        flaws = [*calls["flaws"], *self._others.flaws(step)]
        self._write_calls(step.number, {**calls, "flaws": flaws})

    def close(self) -> None:
        """Write what is left, of several processes once the others have told of it, or are late."""
        self.drain()
        until = time.monotonic() + PATIENCE
        while self._pending and time.monotonic() < until:
            time.sleep(AGAIN)
            self.drain()
        self.drain(last=True)
        self._sink.close()
        if self._unknown:
            print(f"gradclip watch: {self._unknown} steps are not recorded, {UNKNOWN}", file=sys.stderr)
            self._unknown = 0

    def _write_calls(self, step: int, pattern: dict[str, Any]) -> None:
        if pattern == self._pattern:
            return
        self._pattern = pattern
        with open(self.folder / CALLS, "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **pattern}) + "\n")


def hash_of_script() -> str:
    """What tells one version of the script from another; nothing where it is no file."""
    file = Path(getattr(sys.modules.get("__main__"), "__file__", None) or "")
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""


def claim_folder(folder: Path) -> Path:
    """`folder`, or the first of run-2, run-3, ... in it that nobody has; it is made, so nobody else takes it.

    Raises `OSError` where there is something that is no folder, or where none can be made.
    """
    place, number = folder, 1
    while True:
        try:
            place.mkdir(parents=True)
        except FileExistsError:
            if not folder.is_dir():
                raise
            number += 1
            place = folder / f"run-{number}"
        else:
            return place
