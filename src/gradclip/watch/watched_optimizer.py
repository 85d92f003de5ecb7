"""One optimizer that is watched: what is known of it, and where its steps are written."""

from __future__ import annotations

import math
import time
import weakref
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from gradclip.torch.hook import AttachedClipper, clipper_of
from gradclip.torch.parameters import processes
from gradclip.watch.backward_pass import UsedGradient
from gradclip.watch.call_site import caller
from gradclip.watch.gradient_norms import measure_gradients
from gradclip.watch.joining import place_in
from gradclip.watch.journal import (
    RULE,
    TWO_KNOBS,
    UNTRAINED,
    Applied,
    ClipCall,
    Entry,
    Examined,
    Flaw,
    Loss,
    examine,
    left_out,
)
from gradclip.watch.others import Others, Teller
from gradclip.watch.parameter_names import parameter_names, parameters_in
from gradclip.watch.run_writer import RunWriter, claim_folder
from gradclip.watch.script_thresholds import thresholds_of_script, unseen_clips
from gradclip.watch.shards import as_whole, is_sharded, rank
from gradclip.watch.shares import ShareReader, ShareWriter
from gradclip.watch.step_events import WatchedStep
from gradclip.watch.variable_name import variable_of

FIRST, NOW_AND_THEN = 60, 16
"""The gradients of so many steps are measured twice, until the first were read, and then those of one in so many."""


class WatchedOptimizer:
    """An optimizer and the writer of its run, or what tells another process that writes it; None where none does.

    `position` is where in the log its last step was, `earlier` where the one before was. Of a step that a clipper of
    this library makes, `beside` are the flaws of what else clips, and `result` is the last one that was written. That
    this process `sends` tensors to single others is what a stage of a pipeline does.
    """

    def __init__(self, optimizer: Optimizer, position: int) -> None:
        self.follow(optimizer)
        self.writer: RunWriter | None = None
        self.teller: Teller | None = None
        self.position = self.earlier = position
        self.steps = 0
        self.thresholds: list[dict[str, Any]] = []
        self.beside: list[Flaw] = []
        self.losses: Sequence[Loss] = ()
        self.result: Any = None
        self.used_gradient = UsedGradient([])
        self.sends = False
        self._around: WatchedStep | None = None
        self._where = ""

    def follow(self, optimizer: Optimizer) -> None:
        """Watch this optimizer from now on."""
        self._optimizer = weakref.ref(optimizer)
        self._kind, self._known = type(optimizer), list(map(weakref.ref, parameters_in(optimizer)))

    def is_followed_by(self, optimizer: Optimizer) -> bool:
        """Whether an optimizer takes the place of the one that is gone: it is of its kind, and of its parameters."""
        parameters = parameters_in(optimizer)
        return (
            type(optimizer) is self._kind
            and len(parameters) == len(self._known)
            and all(known() is p for known, p in zip(self._known, parameters, strict=True))
        )

    def parameters(self) -> list[torch.Tensor]:
        """The parameters of the optimizer, none if it is gone."""
        optimizer = self._optimizer()
        return [] if optimizer is None else parameters_in(optimizer)

    @property
    def measures_what_is_made(self) -> bool:
        """Whether the gradients are measured when they are made: often enough to see what changes them before a step.

        Among several processes, each of which makes a part, the script may sum up the parts itself, unless it has them
        in DTensors.
        """
        recorded = self.writer or self.teller
        if recorded is None or (processes() > 1 and not all(map(is_sharded, self.parameters()))):
            return False
        return recorded.saw_own_code or self.is_sampled

    @property
    def is_sampled(self) -> bool:
        """Whether the next step is one of those that are looked at more closely, the same ones in all processes."""
        return self.steps < FIRST or self.steps % NOW_AND_THEN == 0

    def begin_run(self, optimizer: Optimizer, folder: Path, shares: Path, since: float) -> None:
        """Begin to write to `folder`, or to a folder in it where another optimizer has that.

        Of several processes the others tell in the folder `shares` what they have; what is there from before the time
        `since` is none of theirs.
        """
        names = parameter_names(optimizer)
        every = parameters_in(optimizer)
        parameters = [p for p in every if not is_lazy(p)]
        others = set(range(processes())) - {rank()}
        reader = ShareReader(shares, others, since) if others else None
        self.writer = RunWriter(claim_folder(folder), names, Others(place_in(rank(), every, names), reader))
        self._where, _ = caller()
        self.thresholds = thresholds_of_script(optimizer)
        shapes = {names[id(p)]: list(p.shape) for p in parameters}
        name, unseen = variable_of(optimizer), unseen_clips(optimizer)
        self.writer.begin(type(optimizer).__name__, name, shapes, self.thresholds, self._where, unseen)

    def begin_to_tell(self, optimizer: Optimizer, shares: Path) -> None:
        """Begin to tell the process that writes the run what this one has."""
        place = place_in(rank(), parameters_in(optimizer), parameter_names(optimizer))
        self.teller = Teller(place, ShareWriter(shares, rank()))
        self._where, _ = caller()
        self.thresholds = thresholds_of_script(optimizer)

    def add_step(
        self,
        optimizer: Optimizer,
        entries: Iterable[Entry],
        others: Collection[int],
        skipped: Any,
        hears_backward: bool,
    ) -> None:
        """Write the step that the optimizer is about to make, after what `entries` say was done since the last.

        `others` are the parameters of other optimizers.
        """
        recorded = self.writer or self.teller
        if recorded is None:
            return
        parameters = parameters_in(optimizer)
        if self.teller is not None and not self.is_sampled and not any(map(is_sharded, parameters)):
            self.teller.add_step(None)
            return
        known = frozenset(map(id, parameters))
        examined = examine(entries, id(optimizer), known, not hears_backward, others, self._where)
        clipper = clipper_of(optimizer)
        if clipper is not None and not bool(skipped):
            acting = [applied.clip for applied in examined.applied if not applied.clip.measures]
            self.losses = examined.losses
            beside = [flaw for flaw in examined.flaws if flaw.name != UNTRAINED]  # the rule clips
            self.beside = beside + [Flaw(TWO_KNOBS, clip.where, "gradclip") for clip in acting]
            self._around = self._before_rule(parameters, clipper)
            return
        groups = [[p for p in group["params"] if p.grad is not None] for group in optimizer.param_groups]
        step = self._measured(optimizer, groups, examined, skipped)
        if self.teller is not None:
            self.teller.add_step(step)
        elif self.writer is not None:
            self.writer.name(known, lambda: parameter_names(optimizer))
            self.writer.add_step(step, *left_out([[id(p) for p in group] for group in groups], examined.applied))

    def add_result(self, optimizer: Optimizer) -> None:
        """Write the result of the clipper of this library that is attached, or tell of it, if there is a new one."""
        clipper, around = clipper_of(optimizer), self._around
        self._around = None
        if clipper is None or clipper._last is self.result or not (self.writer or self.teller):
            return
        self.result = clipper.last
        if around is not None:
            around = self._after_rule(around, optimizer, clipper)
        if self.writer is not None:
            self.writer.write_result(clipper.last, repr(clipper.rule), self.steps, self.beside, self.losses, around)
        elif self.teller is not None:
            self.teller.add_step(around)

    def _before_rule(self, parameters: list[torch.Tensor], clipper: AttachedClipper) -> WatchedStep | None:
        """What is measured before a rule clips, where the processes are compared or each clips what it has by itself.

        Nothing where it clips the update, or leaves the gradients to the optimizer to scale.
        """
        options, compares = clipper.options, processes() > 1 and self.is_sampled
        apart = clipper.line.apart and any(map(is_sharded, parameters))
        if not (compares or apart) or options.place != "gradient" or options.through_grad_scale:
            return None
        rest, peak = (measure_gradients(parameters, order) for order in (2.0, math.inf))
        step = WatchedStep(self.steps, time.time(), Examined([], []), rest, 1.0, False, peak if apart else None)
        return step._replace(compares=compares, sends=self.sends)

    def _after_rule(self, step: WatchedStep, optimizer: Optimizer, clipper: AttachedClipper) -> WatchedStep:
        """The same with what the rule has left, and with the rule as a clip."""
        parameters = parameters_in(optimizer)
        left, peak = (measure_gradients(parameters, order) for order in (2.0, math.inf))
        known = frozenset(map(id, parameters))
        clip = ClipCall(repr(clipper.rule), RULE, 0.0, 2.0, self._where, "", known, norms_before=step.rest)
        applied = [Applied(clip._replace(norm=clipper.last))]
        peak_left = None if step.peak is None else peak
        return step._replace(examined=Examined(applied, []), at_step=left, peak_at_step=peak_left, where=self._where)

    def close(self) -> None:
        """Write what is left."""
        for recorded in (self.writer, self.teller):
            if recorded is not None:
                recorded.close()

    def drain(self) -> None:
        """Write what is known by now."""
        for recorded in (self.writer, self.teller):
            if recorded is not None:
                recorded.drain()

    def _measured(
        self, optimizer: Optimizer, groups: list[list[torch.Tensor]], examined: Examined, skipped: Any
    ) -> WatchedStep:
        """The step, with the norms of what no clip has measured."""
        orders = {applied.clip.order for applied in examined.applied}
        acting = [a for a in examined.applied if examined.made is None or not a.clip.measures]
        covered = frozenset().union(*(applied.clip.parameters for applied in acting))
        order = math.inf if orders == {math.inf} else 2.0
        rest = measure_gradients((p for group in groups for p in group if id(p) not in covered), order)
        divisor = as_whole(getattr(optimizer, "grad_scale", None))
        unclipped = self.thresholds and all(applied.clip.measures for applied in examined.applied)
        peak = measure_gradients((p for group in groups for p in group), math.inf) if unclipped else None
        compares = processes() > 1 and self.is_sampled
        at_step = None
        if compares and any(not a.clip.measures for a in examined.applied):
            at_step = measure_gradients((p for group in groups for p in group), 2.0)
        divisor = 1.0 if divisor is None else divisor
        step = WatchedStep(self.steps, time.time(), examined, rest, divisor, skipped, peak, self._where, at_step)
        return step._replace(compares=compares, sends=self.sends)
