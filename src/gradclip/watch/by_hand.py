"""Scripts that update their parameters themselves: the calls of their clip are the steps, for there is no optimizer."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradclip.watch.entry_log import EntryLog
from gradclip.watch.gradient_norms import GradientNorms
from gradclip.watch.journal import BY_HAND, Backward, ClipCall, examine
from gradclip.watch.parameter_names import parameter_names
from gradclip.watch.run_writer import RunWriter, claim_folder
from gradclip.watch.script_thresholds import thresholds_of_script
from gradclip.watch.step_events import WatchedStep

SURE = 30
"""After so many clips without the step of an optimizer none is coming; an accumulation has some before its first."""


@dataclass
class Parameters:
    """The parameters of a clip, in the form in which an optimizer has them."""

    param_groups: list[dict[str, Any]]


class UpdatesByHand:
    """Records each clip of gradients that were made since the one before, once it is sure that no optimizer steps."""

    def __init__(self, folder: Path, log: EntryLog) -> None:
        self._folder, self._log = folder, log
        self._position = self._steps = 0
        self._waiting: list[WatchedStep] = []
        self._writer: RunWriter | None = None
        self._parameters: list[Any] = []
        self._where = ""
        self._thresholds: list[dict[str, Any]] = []

    def clipped(self, clip: ClipCall, parameters: list[Any]) -> None:
        """A clip, the last entry of the log, has acted on the gradients of these."""
        entries = list(self._log.since(self._position))
        if clip.measures or not any(isinstance(entry, Backward) for entry in entries):
            return
        if not self._steps:
            self._parameters, self._where, self._thresholds = parameters, clip.where, thresholds_of_script()
        examined = examine(entries, id(self), clip.parameters, step_at=clip.where)
        rest = GradientNorms([], math.inf if clip.order == math.inf else 2.0, [], [])
        self._waiting.append(WatchedStep(self._steps, time.time(), examined, rest, 1.0, where=clip.where))
        self._steps, self._position = self._steps + 1, self._log.end
        if self._writer is not None or len(self._waiting) >= SURE:
            self.write()

    def write(self) -> None:
        """Write the steps that wait."""
        if self._waiting and self._writer is None:
            held = Parameters([{"params": self._parameters}])
            names = parameter_names(held)
            self._writer = RunWriter(claim_folder(self._folder), names)
            shapes = {names[id(p)]: list(p.shape) for p in self._parameters}
            self._writer.begin(BY_HAND, "", shapes, self._thresholds, self._where)
        for step in self._waiting:
            assert self._writer is not None
            self._writer.add_step(step, None, [])
        self._waiting.clear()

    def close(self) -> None:
        """Write what is left."""
        self.write()
        if self._writer is not None:
            self._writer.close()
