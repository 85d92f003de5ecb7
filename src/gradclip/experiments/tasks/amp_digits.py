"""Handwritten digits again, by a small convolutional net with batch normalisation, in half precision.

Trained as the documentation of PyTorch says: `torch.autocast` in fp16, and a `GradScaler`, which multiplies the loss so
that small gradients do not vanish in 16 bits, and leaves out the steps in which one has overflowed. It doubles its
scale every 20 steps here, where it does so every 2000 by default, so that a short training meets what a long one does:
overflows, again and again. A rule sees the gradients after they were divided by the scale.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from gradclip.experiments.outcome import Metric, TrainingOutcome
from gradclip.experiments.tasks.descent import MakeOptimizer, descend, thinned
from gradclip.experiments.tasks.digits import CLASSES, digits, recognised
from gradclip.experiments.tasks.first_weights import drawn
from gradclip.experiments.tasks.task import Task
from gradclip.rules.rule import AnyRule

CHANNELS, BATCH, RATE, STEPS, GROWTH = 8, 32, 0.05, 150, 20


def net() -> nn.Sequential:
    """Images [N, 1, 8, 8] to logits [N, 10]."""
    return nn.Sequential(
        nn.Conv2d(1, CHANNELS, 3, padding=1, bias=False),
        nn.BatchNorm2d(CHANNELS),
        nn.ReLU(),
        nn.Conv2d(CHANNELS, 2 * CHANNELS, 3, padding=1, stride=2, bias=False),
        nn.BatchNorm2d(2 * CHANNELS),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(2 * CHANNELS * 16, CLASSES),
    )


def loss_scaler() -> GradScaler:
    """That of PyTorch with its defaults, but for how often the scale grows."""
    return GradScaler("cpu", growth_interval=GROWTH)


def train(
    rule: AnyRule, seed: int, steps: int = STEPS, rate: float = RATE, optimizer: MakeOptimizer = torch.optim.SGD
) -> TrainingOutcome:
    """Trains on batches drawn at random; the metric is the accuracy on the test images, in 32 bits."""
    images, classes, tests, answers = digits()
    model, random = drawn(net, seed), torch.Generator().manual_seed(seed)

    def loss(step: int) -> Tensor:
        chosen = torch.randint(len(images), (BATCH,), generator=random)
        with torch.autocast("cpu", torch.float16):
            return nn.functional.cross_entropy(model(images[chosen]), classes[chosen])

    run = descend(optimizer(model.parameters(), rate), rule, loss, steps, model, scaler=loss_scaler())
    accuracy = recognised(model, tests, answers).float().mean().item()
    curve = thinned(run.losses, of=steps)
    return TrainingOutcome(accuracy, curve=curve, clipped=run.clipped, diverged=run.diverged)


TASK = Task(
    name="amp-digits",
    about=(
        f"A convolutional net with batch normalisation on scikit-learn's digits, SGD {RATE:g}, {STEPS} steps on "
        f"batches of {BATCH}, in fp16 by torch.autocast under a GradScaler whose scale doubles every {GROWTH} steps. "
        "The metric is the accuracy on test images. Guessing has 0.1."
    ),
    claims=(),
    metric=Metric("test accuracy", best="highest", y="cross entropy of the batch", log="y"),
    rules=("none", "global:1", "global:0.1"),
    train=train,
)
