"""Scripts that update their parameters themselves: the calls of their clip are the steps, for there is no optimizer."""

from __future__ import annotations

import math
import time
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gradclip.watch.backward_pass import UsedGradient
from gradclip.watch.entry_log import EntryLog
from gradclip.watch.gradient_norms import measure_gradients
from gradclip.watch.joining import place_in
from gradclip.watch.journal import AFTER_STEP, BY_HAND, ClipCall, Entry, Examined, Flaw, Zeroed, examine, left_out
from gradclip.watch.others import Others
from gradclip.watch.parameter_names import outermost_modules, parameter_names
from gradclip.watch.run_writer import RunWriter, claim_folder
from gradclip.watch.script_thresholds import thresholds_of_script
from gradclip.watch.shards import local_part
from gradclip.watch.step_events import WatchedStep

SAMPLE = 8
"""Elements of the first parameter that are looked at."""
ALONG = 0.999
"""The cosine of what moves along a gradient."""
SURE = 30
"""After so many clips without the step of an optimizer none is coming; an accumulation has some before its first."""


@dataclass
class Parameters:
    """The parameters of a clip, in the form in which an optimizer has them."""

    param_groups: list[dict[str, Any]]


class UpdatesByHand:
    """Records the clips between two backward passes as a step, once it is sure that no optimizer makes one.

    What is known of the parameters is what the script clips, and what else the models have in which those are.
    """

    def __init__(self, folder: Path, log: EntryLog) -> None:
        self._folder, self._log = folder, log
        self._position = self._steps = 0
        self._waiting: list[tuple[WatchedStep, tuple[str | None, list[int]]]] = []
        self._writer: RunWriter | None = None
        self._clipped: list[weakref.ref[torch.Tensor]] = []
        self._every: list[weakref.ref[torch.Tensor]] = []
        self._clip: ClipCall | None = None
        self._with_gradients: list[int] = []
        self._weights: list[float] = []
        self._late = False
        self._thresholds: list[dict[str, Any]] = []
        self.used_gradient = UsedGradient([])
        self.over = False

    def parameters(self) -> list[torch.Tensor]:
        """The parameters that were clipped."""
        return alive(self._clipped)

    def known(self) -> dict[int, UpdatesByHand]:
        """Itself by its `id`, while steps are made by hand."""
        return {id(self): self} if self._steps and not self.over else {}

    def clipped(self, clip: ClipCall, parameters: list[torch.Tensor]) -> None:
        """A clip, the last entry of the log, has acted on the gradients of these."""
        if clip.measures:
            return
        if not self._clipped:
            self._clipped, self._thresholds = list(map(weakref.ref, parameters)), thresholds_of_script()
        if self._steps == 1:
            self._every = list(map(weakref.ref, parameters_beside(self.parameters())))
        self._with_gradients = [id(p) for p in alive(self._every) if p.grad is not None]
        self._late = self._was_updated(clip)
        self._clip = clip

    def backward_begins(self) -> None:
        """Gradients of the next step are about to be made."""
        if self._clip is not None and not self.over:
            self._add_step(self._clip)
        self._clip = None

    def backward_ended(self) -> None:
        """They are made; the weights should be what they are now when they are clipped."""
        if self._clipped and not self.over:
            self._weights = self._sample()

    def close(self) -> None:
        """Write what is left."""
        self.backward_begins()
        self._write()
        if self._writer is not None:
            self._writer.close()

    def _sample(self) -> list[float]:
        """Some of the weights, by which an update shows."""
        first = next(iter(self.parameters()), None)
        return [] if first is None else sample_of(first)

    def _was_updated(self, clip: ClipCall) -> bool:
        """Whether what is clipped moved along its gradient since that was made: a decay moves it otherwise."""
        first = next(iter(self.parameters()), None)
        if first is None or first.grad is None or id(first) not in clip.parameters or not self._weights:
            return False
        moved = [now - before for now, before in zip(self._sample(), self._weights, strict=True)]
        gradient = sample_of(first.grad)
        lengths = math.hypot(*moved) * math.hypot(*gradient)
        return lengths > 0.0 and sum(a * b for a, b in zip(moved, gradient, strict=True)) < -ALONG * lengths

    def _add_step(self, clip: ClipCall) -> None:
        entries = since_zeroed(list(self._log.since(self._position)), clip)
        self._position = self._log.end
        if not any(isinstance(entry, ClipCall) for entry in entries):
            return
        calls = [entry for entry in entries if isinstance(entry, ClipCall) and not entry.measures]
        clipped = clip.parameters.union(*(call.parameters for call in calls))
        examined = examine(entries, id(self), clipped, step_at=clip.where)
        if self._late and examined.applied:
            examined = Examined([], [*examined.flaws, Flaw(AFTER_STEP, clip.where, clip.by)], examined.losses)
        unclipped = [] if examined.applied else self.parameters()
        rest = measure_gradients(unclipped, math.inf if clip.order == math.inf else 2.0)
        step = WatchedStep(self._steps, time.time(), examined, rest, 1.0, where=clip.where)
        self._waiting.append((step, left_out([self._with_gradients], examined.applied)))
        self._steps += 1
        self.used_gradient = UsedGradient(self.parameters())
        if self._writer is not None or len(self._waiting) >= SURE:
            self._write()

    def _write(self) -> None:
        """Write the steps that wait."""
        if self._waiting and self._writer is None:
            every = alive(self._every or self._clipped)
            names = parameter_names(Parameters([{"params": every}]))
            self._writer = RunWriter(claim_folder(self._folder), names, Others(place_in(0, every, names)))
            shapes = {names[id(p)]: list(p.shape) for p in every}
            self._writer.begin(BY_HAND, "", shapes, self._thresholds, self._waiting[0][0].where)
        for step, (flaw, missing) in self._waiting:
            assert self._writer is not None
            self._writer.add_step(step, flaw, missing)
        self._waiting.clear()


def sample_of(tensor: torch.Tensor) -> list[float]:
    """The first elements of a tensor, or of what is here of it."""
    return [float(number) for number in local_part(tensor).detach().reshape(-1)[:SAMPLE].tolist()]


def alive(references: list[weakref.ref[torch.Tensor]]) -> list[torch.Tensor]:
    """The tensors that are still there."""
    return [tensor for reference in references if (tensor := reference()) is not None]


def since_zeroed(entries: list[Entry], clip: ClipCall) -> list[Entry]:
    """The entries up to the last clip, and of those before the first only what came since the gradients were zeroed."""
    calls = [place for place, entry in enumerate(entries) if isinstance(entry, ClipCall)]
    if not calls:
        return []
    zeroed = [
        place
        for place, entry in enumerate(entries[: calls[0]])
        if isinstance(entry, Zeroed) and entry.parameters & clip.parameters
    ]
    return entries[max(zeroed, default=0) : calls[-1] + 1]


def parameters_beside(clipped: list[torch.Tensor]) -> list[torch.Tensor]:
    """The parameters of the outermost models in which some that were clipped are, and those themselves."""
    ours = set(map(id, clipped))
    found = {id(p): p for p in clipped}
    for module in outermost_modules():
        inside = list(module.parameters())
        if any(id(p) in ours for p in inside):
            found |= {id(p): p for p in inside if p.requires_grad}
    return list(found.values())
