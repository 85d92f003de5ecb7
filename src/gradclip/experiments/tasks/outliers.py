"""A regression under squared error, where one target in twenty is far too high.

The function is the first of J. H. Friedman 1991, "Multivariate adaptive regression splines": ten uniform inputs, five
of which say something. What is added to a target is never below 0 and has a heavy tail (Pareto's, whose variance is
infinite), as the faults of a meter that can only overshoot. The mean of the targets is not the function any more, so
that a rule which cuts the largest gradients may end nearer to it than squared error itself; the metric is taken
without faults and without noise.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from gradclip.experiments.outcome import Metric, TrainingOutcome
from gradclip.experiments.tasks.descent import MakeOptimizer, descend, thinned
from gradclip.experiments.tasks.first_weights import drawn
from gradclip.experiments.tasks.task import Task
from gradclip.experiments.training.in_torch import alone
from gradclip.rules.rule import AnyRule

INPUTS, UNITS, TRAINED_ON, TESTED, BATCH, RATE, STEPS = 10, 32, 1000, 1000, 16, 0.02, 2000
SHARE, LEAST, TAIL = 0.05, 3.0, 2.0
"""The share of the faults, the smallest, and the exponent of their tail."""
NOISE, MEAN, DEVIATION = 0.2, 14.4, 4.9
"""The deviation of the noise on every target, and the mean and the deviation of the function, which is standardised."""
TEST_SEED = 2**31


def friedman(inputs: Tensor) -> Tensor:
    """The function of inputs [N, 10] in 0 to 1, standardised."""
    a, b, c, d, e = inputs.unbind(1)[:5]
    value = 10 * torch.sin(math.pi * a * b) + 20 * (c - 0.5).square() + 10 * d + 5 * e
    return (value - MEAN) / DEVIATION


def faults(count: int, random: torch.Generator) -> Tensor:
    """What is added to targets [N]: 0 for most."""
    size = LEAST * torch.rand(count, generator=random) ** (-1 / TAIL)
    return torch.where(torch.rand(count, generator=random) < SHARE, size, 0.0)


def net() -> nn.Sequential:
    """Inputs [N, 10] to predictions [N, 1]."""
    return nn.Sequential(nn.Linear(INPUTS, UNITS), nn.ReLU(), nn.Linear(UNITS, UNITS), nn.ReLU(), nn.Linear(UNITS, 1))


def train(
    rule: AnyRule, seed: int, steps: int = STEPS, rate: float = RATE, optimizer: MakeOptimizer = torch.optim.SGD
) -> TrainingOutcome:
    """Trains on the faulty targets; the metric is the root mean squared error against the function itself."""
    random, model = torch.Generator().manual_seed(seed), drawn(net, seed)
    inputs = torch.rand((TRAINED_ON, INPUTS), generator=random)
    noise = NOISE * torch.randn(TRAINED_ON, generator=random)
    targets = friedman(inputs) + noise + faults(TRAINED_ON, random)

    def loss(step: int) -> Tensor:
        chosen = torch.randint(TRAINED_ON, (BATCH,), generator=random)
        return nn.functional.mse_loss(model(inputs[chosen]).squeeze(1), targets[chosen])

    run = descend(optimizer(model.parameters(), rate), rule, loss, steps, model)
    tests = torch.rand((TESTED, INPUTS), generator=torch.Generator().manual_seed(TEST_SEED))
    with alone(), torch.no_grad():
        error = nn.functional.mse_loss(model(tests).squeeze(1), friedman(tests)).sqrt().item()
    return TrainingOutcome(error, curve=thinned(run.losses, of=steps), clipped=run.clipped, diverged=run.diverged)


TASK = Task(
    name="outliers",
    about=(
        f"An MLP of {UNITS} and {UNITS} units learns Friedman's function of {INPUTS} inputs under squared error, SGD "
        f"{RATE:g}, {STEPS} steps on batches of {BATCH} out of {TRAINED_ON} examples. {SHARE:.0%} of the targets are "
        f"too high, by {LEAST:g} deviations of the function or far more. The metric is the error against the function "
        "itself, in its deviations: predicting the mean has 1."
    ),
    claims=(),
    metric=Metric("root mean squared error, clean", y="squared error of the batch", log="y"),
    rules=("none", "global:1", "global:0.1"),
    train=train,
)
