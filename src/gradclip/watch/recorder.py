"""The recorder of one process: what the patches call becomes a run for each optimizer. It changes no gradient."""

from __future__ import annotations

import atexit
import math
import os
import sys
import time
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer

from gradclip.torch.parameters import processes
from gradclip.torch.scaler import begun
from gradclip.watch.backward_pass import BackwardPass, UsedGradient, losses_in, marks_of
from gradclip.watch.by_hand import UpdatesByHand
from gradclip.watch.call_site import caller, text_at
from gradclip.watch.entry_log import EntryLog
from gradclip.watch.environment import folder_of_shares
from gradclip.watch.gradient_norms import GradientNorms, first_gradient, measure_gradients
from gradclip.watch.journal import VALUE, Backward, ClipCall, ClosureBegins, HandedOn, Scaled, Unscaled, Zeroed
from gradclip.watch.parameter_names import parameters_in
from gradclip.watch.safety import Fallible, safe
from gradclip.watch.shards import as_whole, is_sharded, rank
from gradclip.watch.shares import job
from gradclip.watch.watched_optimizer import FIRST, WatchedOptimizer

MOST_RUNS = 16
"""The optimizers of a process that are recorded: some scripts make one for each parameter."""


class Recorder(Fallible):
    """Records each optimizer to a run of its own: the first to `folder`, the others to folders in it.

    After `most` steps of an optimizer the process ends; 0: it does not.
    """

    def __init__(self, folder: Path, most: int = 0) -> None:
        super().__init__()
        self.folder = folder
        self.most = most
        self._begun = time.time()
        self._log = EntryLog()
        self._hears_backward = self._sends = False
        self._watched: dict[int, WatchedOptimizer] = {}
        self._gone: list[WatchedOptimizer] = []
        self._made: dict[int, weakref.ref[Optimizer]] = {}
        self._runs = 0
        self._by_hand = UpdatesByHand(folder, self._log)
        self._clipping: list[torch.Tensor] = []
        atexit.register(self.close)
        os.register_at_fork(after_in_child=self._leave_to_the_parent)

    @safe
    def backward_begins(self, roots: Any = (), factors: Any = None) -> BackwardPass:
        """A backward pass begins, from these tensors times these factors."""
        self._hears_backward = True
        self._by_hand.backward_begins()
        known = self._known_parameters()
        fresh = [key for key, parameters in known.items() if all(p.grad is None for p in parameters)]
        # of one optimizer alone every loss is its own, until it is clipped; to look at all gradients twice would cost
        # a small net 1 %
        looks = len(known) > 1 or self._log.has_clip
        marks = {key: marks_of(parameters) for key, parameters in known.items()} if looks else {}
        steps = self._steps_that_are_made().items()
        used = [key for key, one in steps if key not in fresh and one.used_gradient.is_there(one.parameters())]
        missed: set[int] = set()
        norms: dict[int, GradientNorms] = {}
        self._log.add(Backward(losses_in(roots, factors), missed, fresh, used, norms))
        return BackwardPass(known, missed, marks, used, norms)

    @safe
    def backward_ended(self, backward: BackwardPass) -> None:
        """The backward pass has ended: the optimizers whose gradients are as they were have got none of its loss.

        Those of others are measured now and then, to see what the script's own code does to them before the step.
        """
        for key, parameters in backward.known.items():
            if key in backward.marks and marks_of(parameters) == backward.marks[key]:
                backward.missed.add(key)
            elif self._measures_what_is_made(key, parameters):
                backward.norms[key] = measure_gradients(parameters, 2.0)
        steps = self._steps_that_are_made()
        for key in backward.used:
            if key in steps:
                steps[key].used_gradient.added_to()
        self._by_hand.backward_ended()

    @safe
    def gradients_handed_on(self) -> None:
        """Gradients are about to be made that the script itself hands on: nothing is added to those that there are."""
        self._hears_backward = True
        self._by_hand.backward_begins()
        self._log.add(HandedOn())

    @safe
    def optimizer_made(self, optimizer: Optimizer) -> None:
        """An optimizer was made, which may step later."""
        if len(self._made) < MOST_RUNS:
            self._made[id(optimizer)] = weakref.ref(optimizer)

    def tensor_sent(self) -> None:
        """A tensor goes to a single other process, or comes from one."""
        self._sends = True

    @safe
    def closure_begins(self, optimizer: Optimizer) -> None:
        """The closure of a step is about to be evaluated."""
        self._log.add(ClosureBegins(id(optimizer)))

    def _steps_that_are_made(self) -> dict[int, WatchedOptimizer | UpdatesByHand]:
        """Whatever has made a step, by its `id`."""
        return {**self._watched, **self._by_hand.known()}

    def _measures_what_is_made(self, key: int, parameters: list[torch.Tensor]) -> bool:
        """Whether the gradients of an optimizer are measured when they are made; one that has not stepped may soon."""
        if key in self._watched:
            return self._watched[key].measures_what_is_made
        if processes() > 1 and not all(map(is_sharded, parameters)):
            return False
        return max((watched.steps for watched in self._watched.values()), default=0) < FIRST

    def _known_parameters(self) -> dict[int, list[torch.Tensor]]:
        """The parameters of each optimizer, by its `id`: of those that stepped, and of those that were made."""
        found = {}
        for key, reference in list(self._made.items()):
            optimizer = reference()
            if optimizer is None:
                del self._made[key]
            elif key not in self._watched and hasattr(optimizer, "param_groups"):
                found[key] = parameters_in(optimizer)
        return found | {key: watched.parameters() for key, watched in self._watched.items()}

    @safe
    def gradients_zeroed(self, parameters: Iterable[torch.Tensor]) -> None:
        """The gradients of `parameters` are about to be zeroed."""
        self._log.add(Zeroed(self._log.shared(frozenset(map(id, parameters)))))

    @safe
    def loss_scaled(self, scale: torch.Tensor, outputs: Any) -> None:
        """A GradScaler has scaled these losses."""
        many = len(outputs) if isinstance(outputs, list | tuple) else 1
        self._log.add(Scaled(scale.detach().clone(), many))

    @safe
    def gradients_unscaled(self, optimizer: Any) -> None:
        """A GradScaler is about to unscale the gradients of an optimizer."""
        self._log.add(Unscaled(id(optimizer)))

    @safe
    def clip_begins(self, function: str, kind: str, parameters: list[Any], threshold: Any, order: Any) -> ClipCall:
        """A clipping function was called and has not acted yet: what there is to know of it."""
        where, by = caller()
        order = math.inf if kind == VALUE else float(order)
        tensors = [parameter for parameter in parameters if isinstance(parameter, torch.Tensor)]
        gradients = sum(p.grad is not None for p in tensors)
        first = first_gradient(tensors)
        self._clipping = tensors if not self._runs else []
        return ClipCall(
            function=function,
            kind=kind,
            threshold=float(threshold),
            order=order,
            where=where,
            by=by,
            parameters=self._log.shared(frozenset(map(id, tensors))),
            given=len(tensors),
            gradients=gradients,
            are_parameters=bool(gradients) or any(p.requires_grad for p in tensors),
            first=(lambda: None) if first is None else weakref.ref(first),
            says_scale="scale" in text_at(where),
            norms_before=measure_gradients(tensors, math.inf if order == math.inf else 2.0),
        )

    @safe
    def clip_ended(self, clip: ClipCall, norm: Any) -> None:
        """The call has acted, and returned `norm`."""
        clip = clip._replace(norm=as_whole(norm))
        self._log.add(clip)
        if not self._watched and not self._runs and rank() == 0:
            self._by_hand.clipped(clip, self._clipping)
        self._clipping = []

    @safe
    def before_step(self, optimizer: Optimizer) -> None:
        """An optimizer is about to use its gradients, which the closure of its step may have made."""
        begun(optimizer)
        found = as_whole(getattr(optimizer, "found_inf", None))
        self._add_step(optimizer, skipped=False if found is None else found > 0)

    @safe
    def after_step(self, optimizer: Optimizer) -> None:
        """An optimizer has stepped."""
        watched = self._watched.get(id(optimizer))
        if watched is not None:
            watched.add_result(optimizer)
            watched.used_gradient = UsedGradient(watched.parameters())
            self._count(watched)

    @safe
    def closure_evaluated(self, optimizer: Optimizer) -> None:
        """A closure was evaluated and its gradients were used: what comes is about the next ones."""
        if (watched := self._watched.get(id(optimizer))) is not None:
            watched.position = self._log.end

    def listens_to(self, optimizer: Optimizer) -> bool:
        """Whether this optimizer is recorded: each is."""
        return True

    @safe
    def left_out(self, optimizer: Optimizer) -> None:
        """A GradScaler left a step of `optimizer` out."""
        self._count(self._add_step(optimizer, skipped=True))

    def enough(self) -> bool:
        """Whether an optimizer has made as many steps as the run is to have."""
        return bool(self.most) and any(watched.steps >= self.most for watched in self._watched.values())

    @safe
    def close(self) -> None:
        """Write what is left."""
        if not self._runs and not self._known_parameters():
            self._by_hand.close()
        for watched in (*self._watched.values(), *self._gone):
            watched.close()

    def _add_step(self, optimizer: Optimizer, skipped: Any) -> WatchedOptimizer:
        """Write the step of an optimizer, which is watched from now on if it is new."""
        watched = self._watched.get(id(optimizer)) or self._new(optimizer)
        entries = list(self._log.since(watched.position))
        others = self._parameters_beside(optimizer) if any(isinstance(entry, ClipCall) for entry in entries) else ()
        watched.sends = self._sends
        watched.add_step(optimizer, entries, others, skipped, self._hears_backward)
        return watched

    def _parameters_beside(self, optimizer: Optimizer) -> frozenset[int]:
        """The parameters of all other optimizers."""
        every = self._known_parameters().items()
        return self._log.shared(frozenset(id(p) for key, known in every if key != id(optimizer) for p in known))

    def _count(self, watched: WatchedOptimizer) -> None:
        """Count a step, and forget what every optimizer has read."""
        watched.steps += 1
        watched.earlier, watched.position = watched.position, self._log.end
        # one that is new steps on what others have read
        self._log.forget_before(min(other.earlier for other in self._watched.values()))

    def _new(self, optimizer: Optimizer) -> WatchedOptimizer:
        """Begin to watch an optimizer; of several processes that train together the first writes what all have.

        One that takes the place of another, as where each epoch makes its own, goes on with the run of that.
        """
        weakref.finalize(optimizer, self._forget, id(optimizer)).atexit = False
        before = next((watched for watched in self._gone if watched.is_followed_by(optimizer)), None)
        if before is not None:
            self._gone.remove(before)
            before.follow(optimizer)
            self._watched[id(optimizer)] = before
            return before
        position = max((watched.earlier for watched in self._watched.values()), default=0)
        watched = WatchedOptimizer(optimizer, position)
        self._runs += 1
        self._by_hand.over = True
        if self._runs == MOST_RUNS + 1:
            print(f"gradclip watch: more than {MOST_RUNS} optimizers, the others are not recorded", file=sys.stderr)
        shares = folder_of_shares(self.folder) / job() / str(self._runs)
        if rank() == 0 and self._runs <= MOST_RUNS:
            watched.begin_run(optimizer, self.folder, shares, self._begun)
        elif processes() > 1 and self._runs <= MOST_RUNS:
            watched.begin_to_tell(optimizer, shares)
        self._watched[id(optimizer)] = watched
        return watched

    def _leave_to_the_parent(self) -> None:
        """In a process that was forked: what waits here is the parent's to write."""
        self._watched.clear()
        self._gone.clear()

    @safe
    def _forget(self, key: int) -> None:
        """The optimizer is gone, and its `id` may be another's soon."""
        watched = self._watched.pop(key, None)
        if watched is not None and (watched.writer or watched.teller):
            watched.drain()
            self._gone.append(watched)
