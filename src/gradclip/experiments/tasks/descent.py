"""The loop of the tasks: gradient descent under a rule, and what of it is written down."""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from gradclip.errors import GradclipWarning
from gradclip.experiments.training.in_torch import alone
from gradclip.rules.rule import AnyRule
from gradclip.torch import attach

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


def descend(
    optimizer: torch.optim.Optimizer,
    rule: AnyRule,
    loss: Loss,
    steps: int,
    model: torch.nn.Module | None = None,
    done: Check = lambda step: False,
) -> Descent:
    """Up to `steps` steps on one thread; ends at the first loss that is infinite or NaN, or where `done` says so."""
    clipper = attach(optimizer, rule, model=model)
    losses: list[float] = []
    changed = 0
    with alone(), warnings.catch_warnings():
        # A rule that lets a run blow up meets infinite gradients: that is what is to be seen, so not worth a warning.
        warnings.simplefilter("ignore", GradclipWarning)
        for step in range(1, steps + 1):
            optimizer.zero_grad()
            value = loss(step)
            losses.append(value.item())
            if not math.isfinite(losses[-1]):
                return Descent(losses, changed / step, step)
            value.backward()
            for name in clipper.reads_given & NUMBERS.keys():
                clipper.give(**{name: NUMBERS[name](optimizer, losses[-1])})
            optimizer.step()
            changed += clipper.last.clipped or clipper.last.skipped
            if done(step):
                break
    return Descent(losses, changed / len(losses), None)


def thinned(values: list[float], points: int = POINTS, of: int | None = None) -> tuple[tuple[float, float], ...]:
    """A curve of at most `points` means over equal stretches of `of` steps (all, if not given), each at its end."""
    width = math.ceil((of or len(values)) / points)
    stretches = (values[start : start + width] for start in range(0, len(values), width))
    return tuple((min((i + 1) * width, len(values)), statistics.fmean(part)) for i, part in enumerate(stretches))
