"""The one training loop of the experiments: plain gradient descent that writes down loss and gradient norm."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from gradclip.errors import GradclipWarning
from gradclip.experiments.run import Step
from gradclip.torch import get_total_norm

Watch = Callable[[Step], None]


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    next_loss: Callable[[], Tensor],
    steps: int,
    watch: Watch,
    unit: float = 1.0,
) -> tuple[Step, ...]:
    """Up to `steps` steps on the losses that `next_loss` gives; ends at the first loss that is infinite or NaN.

    Clipping is not in here: it lives in the step of an optimizer that `gradclip.torch.attach` was called on. The norms
    are those of the whole gradient in every run, so that runs with different rules can be compared. Losses are written
    down in `unit`s; the gradient does not know of it.
    """
    records = []
    for number in range(1, steps + 1):
        step = _one_step(number, model, optimizer, next_loss())
        records.append(step._replace(loss=step.loss / unit))
        watch(records[-1])
        if not math.isfinite(records[-1].loss):
            break
    return tuple(records)


def _one_step(number: int, model: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor) -> Step:
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    before = gradient_norm(model)
    if math.isfinite(loss.item()):
        with warnings.catch_warnings():
            # A run that is meant to blow up passes through infinite gradients: expected here, so not worth a warning.
            warnings.simplefilter("ignore", GradclipWarning)
            optimizer.step()
    return Step(number, loss.item(), before, gradient_norm(model))


def gradient_norm(model: nn.Module) -> float:
    """The L2 norm of the whole gradient as it is now."""
    return get_total_norm([p.grad for p in model.parameters() if p.grad is not None]).item()


@contextmanager
def repeatable(seed: int) -> Iterator[torch.Generator]:
    """A seeded world on one thread, whose generator it gives; PyTorch's own generator and threads are given back.

    These nets are too small for a second thread to pay, and one thread adds in one order: same seed, same numbers.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield torch.Generator().manual_seed(seed)
    finally:
        torch.set_num_threads(threads)
