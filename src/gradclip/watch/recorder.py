"""The recorder of one process: what the patches tell it becomes a run for each optimizer. It changes no gradient."""

from __future__ import annotations

import atexit
import functools
import itertools
import math
import os
import sys
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from threading import get_ident
from typing import Any, NamedTuple, ParamSpec

import torch
from torch.optim import Optimizer

from gradclip.torch.attached import clipper_of
from gradclip.torch.scaler import begun
from gradclip.watch.asked import asked_for
from gradclip.watch.journal import (
    TWO_KNOBS,
    VALUE,
    Backward,
    Clip,
    Entry,
    Flaw,
    Loss,
    Scaled,
    Unscaled,
    Zeroed,
    examine,
    left_out,
)
from gradclip.watch.names import names_of
from gradclip.watch.record import Record, claimed
from gradclip.watch.seen import first_of, losses_in, marks_of, see
from gradclip.watch.steps import Step
from gradclip.watch.where import caller

MOST_ENTRIES = 1000
"""The entries that are kept for an optimizer that does not step."""
MOST_RUNS = 16
"""The optimizers of a process that are recorded: some scripts make one for each parameter."""

P = ParamSpec("P")


def harmless(method: Callable[P, Any]) -> Callable[P, Any]:
    """`method` of a recorder, silent while the recorder is at work itself, and given up with one line if it fails."""

    @functools.wraps(method)
    def tried(*args: P.args, **kwargs: P.kwargs) -> Any:
        recorder: Any = args[0]
        if recorder.failed or recorder.at_work == get_ident():
            return None
        recorder.at_work = get_ident()
        try:
            return method(*args, **kwargs)
        except Exception as error:  # noqa: BLE001  # whatever goes wrong here, the training is worth more
            recorder.failed = True
            print(f"gradclip watch: nothing more is recorded, {type(error).__name__}: {error}", file=sys.stderr)
            return None
        finally:
            recorder.at_work = 0

    return tried


class Watched:
    """One optimizer: what is known of it, and where its run goes. `position` is what of the log it has read, `earlier`
    what it had read a step before, and `taken` the last result of its clipper that was recorded."""

    def __init__(self, optimizer: Optimizer, position: int) -> None:
        self._optimizer = weakref.ref(optimizer)
        self.record: Record | None = None
        self.position = self.earlier = position
        self.steps = 0
        self.asked: list[dict[str, Any]] = []
        self.beside: list[Flaw] = []
        self.losses: Sequence[Loss] = ()
        self.taken: Any = None

    def parameters(self) -> list[torch.Tensor]:
        """The parameters of the optimizer, none if it is gone."""
        optimizer = self._optimizer()
        return [] if optimizer is None else [p for group in optimizer.param_groups for p in group["params"]]


class Made(NamedTuple):
    """A backward pass that has begun: who will have missed it, and the marks of the gradients of each optimizer."""

    missed: set[int]
    marks: dict[int, list[Any]]


class Recorder:
    """Records each optimizer to a run of its own: the first to `folder`, the others to folders in it.

    After `most` steps of an optimizer the process ends; 0: it does not.
    """

    def __init__(self, folder: Path, most: int = 0) -> None:
        self.folder = folder
        self.most = most
        self.failed = False
        self.at_work = 0
        self._log: deque[Entry] = deque(maxlen=MOST_ENTRIES)
        self._logged = 0
        self._hears_backward = False
        self._watched: dict[int, Watched] = {}
        self._runs = 0
        self._sets: dict[frozenset[int], frozenset[int]] = {}
        atexit.register(self.close)
        os.register_at_fork(after_in_child=self._watched.clear)  # what waits here is the parent's to write

    @harmless
    def made(self, roots: Any = (), factors: Any = None) -> Made:
        """A backward pass begins, from these tensors times these factors."""
        self._hears_backward = True
        own = {key: one.parameters() for key, one in self._watched.items()}
        fresh = [key for key, parameters in own.items() if all(p.grad is None for p in parameters)]
        # of one optimizer alone every loss is its own; to look at all gradients twice would cost a small net 1 %
        marks = {key: marks_of(parameters) for key, parameters in own.items()} if len(own) > 1 else {}
        missed: set[int] = set()
        self._add(Backward(losses_in(roots, factors), missed, fresh))
        return Made(missed, marks)

    @harmless
    def reached(self, made: Made) -> None:
        """The backward pass has ended: the optimizers whose gradients are as they were have got none of its loss."""
        for key, before in made.marks.items():
            if key in self._watched and marks_of(self._watched[key].parameters()) == before:
                made.missed.add(key)

    @harmless
    def zeroed(self, parameters: Iterable[torch.Tensor]) -> None:
        """The gradients of `parameters` are about to be zeroed."""
        self._add(Zeroed(self._one(frozenset(map(id, parameters)))))

    @harmless
    def scaled(self, scale: torch.Tensor, outputs: Any) -> None:
        """A GradScaler has scaled these losses."""
        many = len(outputs) if isinstance(outputs, list | tuple) else 1
        self._add(Scaled(scale.detach().clone(), many))

    @harmless
    def unscaled(self, optimizer: Any) -> None:
        """A GradScaler is about to unscale the gradients of an optimizer."""
        self._add(Unscaled(id(optimizer)))

    @harmless
    def clips(self, function: str, kind: str, parameters: list[Any], threshold: Any, order: Any) -> Clip:
        """A clipping function was called and has not acted yet: what there is to know of it."""
        where, by = caller()
        order = math.inf if kind == VALUE else float(order)
        tensors = [one for one in parameters if isinstance(one, torch.Tensor)]
        gradients = sum(p.grad is not None for p in tensors)
        first = first_of(tensors)
        return Clip(
            function=function,
            kind=kind,
            threshold=float(threshold),
            order=order,
            where=where,
            by=by,
            parameters=self._one(frozenset(map(id, tensors))),
            given=len(tensors),
            gradients=gradients,
            made_of_parameters=bool(gradients) or any(p.requires_grad for p in tensors),
            first=(lambda: None) if first is None else weakref.ref(first),
            seen=see(tensors, math.inf if order == math.inf else 2.0),
        )

    @harmless
    def clipped(self, clip: Clip, norm: Any) -> None:
        """The call has acted, and returned `norm`."""
        self._add(clip._replace(norm=norm))

    @harmless
    def before_step(self, optimizer: Optimizer) -> None:
        """An optimizer is about to use its gradients."""
        begun(optimizer)
        watched = self._of(optimizer)
        found = getattr(optimizer, "found_inf", None)
        self._note(watched, optimizer, skipped=False if found is None else found > 0)

    @harmless
    def after_step(self, optimizer: Optimizer) -> None:
        """An optimizer has stepped."""
        watched = self._watched.get(id(optimizer))
        if watched is None:
            return
        clipper = clipper_of(optimizer)
        if watched.record is not None and clipper is not None and clipper._last is not watched.taken:
            watched.taken = clipper.last
            watched.record.take(clipper.last, repr(clipper.rule), watched.steps, watched.beside, watched.losses)
        self._stepped(watched)

    @harmless
    def evaluated(self, optimizer: Optimizer) -> None:
        """A closure was evaluated and its gradients were used: what comes is about the next ones."""
        if (watched := self._watched.get(id(optimizer))) is not None:
            watched.position = self._logged

    def listens_to(self, optimizer: Optimizer) -> bool:
        """Whether this optimizer is recorded: each is."""
        return True

    @harmless
    def left_out(self, optimizer: Optimizer) -> None:
        """A GradScaler left a step of `optimizer` out."""
        watched = self._of(optimizer)
        self._note(watched, optimizer, skipped=True)
        self._stepped(watched)

    def enough(self) -> bool:
        """Whether an optimizer has made as many steps as were asked for."""
        return bool(self.most) and any(one.steps >= self.most for one in self._watched.values())

    @harmless
    def close(self) -> None:
        """Write what is left."""
        for watched in self._watched.values():
            if watched.record is not None:
                watched.record.close()

    def _one(self, parameters: frozenset[int]) -> frozenset[int]:
        """The same set for the same parameters: a thousand of them are kept once, not at every call."""
        if len(self._sets) > MOST_RUNS:
            self._sets.clear()
        return self._sets.setdefault(parameters, parameters)

    def _add(self, entry: Entry) -> None:
        self._log.append(entry)
        self._logged += 1

    def _since(self, position: int) -> Iterable[Entry]:
        return itertools.islice(self._log, max(0, len(self._log) - (self._logged - position)), None)

    def _of(self, optimizer: Optimizer) -> Watched:
        """What is known of an optimizer, from now on if it is new."""
        return self._watched.get(id(optimizer)) or self._new(optimizer)

    def _stepped(self, watched: Watched) -> None:
        """Count a step, and forget what every optimizer has read."""
        watched.steps += 1
        watched.earlier, watched.position = watched.position, self._logged
        read = min(one.earlier for one in self._watched.values())  # one that is new steps on what others have read
        while self._logged - len(self._log) < read:
            self._log.popleft()

    def _new(self, optimizer: Optimizer) -> Watched:
        """Begin to watch an optimizer; only the first of several processes that train together records."""
        watched = Watched(optimizer, max((one.earlier for one in self._watched.values()), default=0))
        self._runs += 1
        if self._runs == MOST_RUNS + 1:
            print(f"gradclip watch: more than {MOST_RUNS} optimizers, the others are not recorded", file=sys.stderr)
        if rank() == 0 and self._runs <= MOST_RUNS:
            names = names_of(optimizer)
            made = [p for group in optimizer.param_groups for p in group["params"] if not is_lazy(p)]
            shapes = {names[id(p)]: list(p.shape) for p in made}
            watched.record = Record(claimed(self.folder), names)
            watched.asked = asked_for(optimizer)
            watched.record.begin(type(optimizer).__name__, shapes, watched.asked)
        weakref.finalize(optimizer, self._forget, id(optimizer)).atexit = False
        self._watched[id(optimizer)] = watched
        return watched

    @harmless
    def _forget(self, key: int) -> None:
        """The optimizer is gone, and its `id` may be another's soon."""
        watched = self._watched.pop(key, None)
        if watched is not None and watched.record is not None:
            watched.record.close()

    def _note(self, watched: Watched, optimizer: Optimizer, skipped: Any) -> None:
        if watched.record is None:
            return
        groups = [[p for p in group["params"] if p.grad is not None] for group in optimizer.param_groups]
        own = frozenset(id(p) for group in optimizer.param_groups for p in group["params"])
        examined = examine(self._since(watched.position), id(optimizer), own, made=not self._hears_backward)
        if clipper_of(optimizer) is not None and not bool(skipped):
            acting = [one.clip for one in examined.applied if not one.clip.measures]
            watched.losses = examined.losses
            watched.beside = examined.flaws + [Flaw(TWO_KNOBS, clip.where, "gradclip") for clip in acting]
            return
        orders = {one.clip.order for one in examined.applied}
        covered = frozenset().union(*(one.clip.parameters for one in examined.applied))
        rest = see(
            (p for group in groups for p in group if id(p) not in covered), math.inf if orders == {math.inf} else 2.0
        )
        divisor = getattr(optimizer, "grad_scale", None)
        unclipped = watched.asked and all(one.clip.measures for one in examined.applied)
        peak = see((p for group in groups for p in group), math.inf) if unclipped else None
        step = Step(watched.steps, time.time(), examined, rest, 1.0 if divisor is None else divisor, skipped, peak)
        missing = left_out([[id(p) for p in group] for group in groups], examined.applied)
        watched.record.note(step, *missing)


def rank() -> int:
    """The number of this process among those that train together."""
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_rank() if distributed else int(os.environ.get("RANK", 0))


def is_lazy(parameter: torch.Tensor) -> bool:
    """Whether a parameter has no shape yet."""
    return isinstance(parameter, torch.nn.parameter.UninitializedParameter)
