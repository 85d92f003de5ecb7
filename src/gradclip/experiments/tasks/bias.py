"""The mean of skewed numbers: most draws lie a little below it, a few far above; clipping cuts only the few.

`f(x) = E (x - xi)^2 / 2` with `xi = 9` in one of ten draws and -1 in nine: mean 0, so the optimum is 0. Clipped at 2,
the mean gradient is 0 where `9 (x + 1) = 2`, at x = -7/9: a fixed threshold moves the optimum, and no number of steps
helps. A step that carries over what was cut off gets there.
"""

from __future__ import annotations

import statistics

import torch
from torch import Tensor

from gradclip.experiments.outcome import Metric, TrainingOutcome
from gradclip.experiments.tasks.descent import MakeOptimizer, descend, thinned
from gradclip.experiments.tasks.task import Claim, Task
from gradclip.rules.rule import AnyRule

RARE, FAR, NEAR = 0.1, 9.0, -1.0
RATE, STEPS, START = 0.005, 8000, 2.0


def train(
    rule: AnyRule, seed: int, steps: int = STEPS, rate: float = RATE, optimizer: MakeOptimizer = torch.optim.SGD
) -> TrainingOutcome:
    """Descends from 2; the metric is how far the mean of the second half of the places lies from the optimum."""
    random = torch.Generator().manual_seed(seed)
    draws = torch.where(torch.rand(steps, generator=random) < RARE, FAR, NEAR)
    place = torch.nn.Parameter(torch.tensor([START]))
    places: list[float] = []

    def loss(step: int) -> Tensor:
        places.append(place.item())
        return (place - draws[step - 1]).square().sum() / 2

    run = descend(optimizer([place], rate), rule, loss, steps)
    bias = abs(statistics.fmean(places[steps // 2 :]))
    return TrainingOutcome(bias, curve=thinned(places), clipped=run.clipped, diverged=run.diverged)


TASK = Task(
    name="bias",
    about=(
        f"SGD {RATE:g} towards the mean of skewed numbers, {STEPS} steps. The metric is the distance of the mean place "
        "in the second half from the optimum, 0. By algebra a threshold of 2 settles at -7/9."
    ),
    claims=(
        Claim(
            "Clipping at a fixed threshold has a bias that does not go away with more steps.",
            "A. Koloskova, H. Hendrikx, S. U. Stich 2023, arXiv:2305.01588",
            better="none",
            than="global:2",
        ),
        Claim(
            "What clipping cuts off is carried over to the next step, and the bias goes away.",
            "B. Elesedy, M. Hutter 2023, arXiv:2302.02971 (U-Clip)",
            better="uclip:global:2",
            than="global:2",
        ),
    ),
    metric=Metric("distance from the optimum", x="step", y="place"),
    rules=(
        "none",
        "global:2",
        "global:5",
        "uclip:global:2",
        "smoothclip:2",
        "autoclip",
        "zclip:max_norm=None",
    ),
    train=train,
)
