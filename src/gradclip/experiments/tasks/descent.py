"""The loop of the tasks: gradient descent under a rule, and what of it is written down."""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler

from gradclip.errors import GradclipWarning
from gradclip.experiments.training.in_torch import alone
from gradclip.rules.rule import AnyRule
from gradclip.torch import AttachedClipper, attach

Loss = Callable[[int], Tensor]
"""The loss of a step, from 1, on a batch of its own."""
MakeOptimizer = Callable[[Iterable[torch.nn.Parameter], float], torch.optim.Optimizer]
"""Makes the optimizer of parameters at a learning rate, as the class of one does."""
Check = Callable[[int], bool]
"""Called after each step; true ends the training."""
POINTS = 40
NUMBERS: dict[str, Callable[[torch.optim.Optimizer, float], float]] = {"loss": lambda optimizer, loss: loss}
"""What a rule may ask for beside the gradients, by name: from the optimizer after `backward`, and the loss."""


class Descent(NamedTuple):
    """The loss before each step, the share of steps that were clipped or skipped, and the step whose loss was not
    finite, if one was."""

    losses: list[float]
    clipped: float
    broke_at: int | None

    @property
    def diverged(self) -> str | None:
        """Where training blew up, in words."""
        return None if self.broke_at is None else f"step {self.broke_at}"


class Turn(NamedTuple):
    """An optimizer, and the loss whose gradient it follows."""

    optimizer: torch.optim.Optimizer
    loss: Loss


def descend(
    optimizer: torch.optim.Optimizer,
    rule: AnyRule,
    loss: Loss,
    steps: int,
    model: torch.nn.Module | None = None,
    done: Check = lambda step: False,
    scaler: GradScaler | None = None,
) -> Descent:
    """Up to `steps` steps on one thread; ends at the first loss that is infinite or NaN, or where `done` says so.

    With a `scaler` the loss is scaled by it; a step that it leaves out counts as not clipped.
    """
    return take_turns([Turn(optimizer, loss)], rule, steps, model, done, scaler)


def take_turns(
    turns: Sequence[Turn],
    rule: AnyRule,
    steps: int,
    model: torch.nn.Module | None = None,
    done: Check = lambda step: False,
    scaler: GradScaler | None = None,
) -> Descent:
    """`descend` with several optimizers, each clipped by itself and each with a turn in every step; the losses written
    down are those of the first."""
    clippers = [attach(turn.optimizer, rule, model=model) for turn in turns]
    scaler = scaler or GradScaler("cpu", enabled=False)
    losses: list[float] = []
    changed = taken = 0
    with alone(), warnings.catch_warnings():
        # A rule that lets a run blow up meets infinite gradients: that is what is to be seen, so not worth a warning.
        warnings.simplefilter("ignore", GradclipWarning)
        for step in range(1, steps + 1):
            for turn, clipper in zip(turns, clippers, strict=True):
                turn.optimizer.zero_grad()
                value = turn.loss(step)
                taken += 1
                if turn is turns[0]:
                    losses.append(value.item())
                if not math.isfinite(value.item()):
                    return Descent(losses, changed / taken, step)
                changed += _changed(turn.optimizer, clipper, value, scaler)
            scaler.update()
            if done(step):
                break
    return Descent(losses, changed / taken, None)


def _changed(optimizer: torch.optim.Optimizer, clipper: AttachedClipper, loss: Tensor, scaler: GradScaler) -> bool:
    """Whether the step that is made here was clipped, or skipped by the rule."""
    before = clipper.step
    scaler.scale(loss).backward()
    for name in clipper.reads_given & NUMBERS.keys():
        clipper.give(**{name: NUMBERS[name](optimizer, loss.item())})
    scaler.step(optimizer)
    return clipper.step > before and (clipper.last.clipped or clipper.last.skipped)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group of parameters this learning rate, as a schedule does before a step."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def thinned(values: list[float], points: int = POINTS, of: int | None = None) -> tuple[tuple[float, float], ...]:
    """A curve of at most `points` means over equal stretches of `of` steps (all, if not given), each at its end."""
    width = math.ceil((of or len(values)) / points)
    stretches = (values[start : start + width] for start in range(0, len(values), width))
    return tuple((min((i + 1) * width, len(values)), statistics.fmean(part)) for i, part in enumerate(stretches))
