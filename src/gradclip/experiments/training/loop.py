"""The one training loop of the experiments: plain gradient descent that writes down loss and gradient norm."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from gradclip.errors import GradclipWarning
from gradclip.experiments.training.framework import Array, Learner
from gradclip.experiments.training.training_run import TrainingStep

OnStep = Callable[[TrainingStep], None]


def train(
    learner: Learner, batches: Iterator[Sequence[Array]], steps: int, on_step: OnStep, unit: float = 1.0
) -> tuple[TrainingStep, ...]:
    """Up to `steps` steps, each on the next batch; ends at the first loss that is infinite or NaN.

    The norms are those of the whole gradient in every run, so that runs with different rules can be compared. Losses
    are written down in `unit`s; the gradient does not know of it.
    """
    records = []
    for number in range(1, steps + 1):
        with warnings.catch_warnings():
            # A run that is meant to blow up passes through infinite gradients: expected here, so not worth a warning.
            warnings.simplefilter("ignore", GradclipWarning)
            loss, before, after = learner.step(*next(batches))
        records.append(TrainingStep(number, loss / unit, gradient_norm(before), gradient_norm(after)))
        on_step(records[-1])
        if not math.isfinite(loss):
            break
    return tuple(records)


def gradient_norm(gradients: Sequence[Array]) -> float:
    """The L2 norm of the whole gradient, in float64."""
    return math.sqrt(sum(float(np.sum(np.square(gradient, dtype=np.float64))) for gradient in gradients))
