"""A quadratic in 20 dimensions whose gradient comes with Student's t noise: its mean is right, its variance infinite.

`f(x) = |x|^2 / 2`, and the gradient is `x + noise` with 1.5 degrees of freedom. SGD at 0.01 from 1 in every direction.
The metric is the mean squared distance from the optimum over the second half of the steps, where only noise is left.
"""

from __future__ import annotations

import statistics

import torch
from torch import Tensor

from gradclip.experiments.outcome import Metric, TrainingOutcome
from gradclip.experiments.tasks.descent import MakeOptimizer, descend, thinned
from gradclip.experiments.tasks.task import Claim, Task
from gradclip.rules.rule import AnyRule

DIMENSIONS, FREEDOM, RATE, STEPS, START = 20, 1.5, 0.01, 4000, 1.0


def student(freedom: float, size: tuple[int, ...], random: torch.Generator) -> Tensor:
    """Draws of Student's t [size]: a normal over the root of a mean of `freedom` squared normals."""
    # A chi-square with d degrees of freedom is twice a gamma of shape d / 2.
    gamma = torch._standard_gamma(torch.full(size, freedom / 2), generator=random)
    return torch.randn(size, generator=random) / torch.sqrt(2 * gamma / freedom)


def train(
    rule: AnyRule, seed: int, steps: int = STEPS, rate: float = RATE, optimizer: MakeOptimizer = torch.optim.SGD
) -> TrainingOutcome:
    """Descends under noise; the metric is the mean squared distance over the second half."""
    random = torch.Generator().manual_seed(seed)
    place = torch.nn.Parameter(torch.full((DIMENSIONS,), START))
    noise = student(FREEDOM, (steps, DIMENSIONS), random)
    distances: list[float] = []

    def loss(step: int) -> Tensor:
        distances.append(place.detach().square().sum().item())
        return place.square().sum() / 2 + place @ noise[step - 1]

    run = descend(optimizer([place], rate), rule, loss, steps)
    late = statistics.fmean(distances[steps // 2 :])
    return TrainingOutcome(late, curve=thinned(distances), clipped=run.clipped, diverged=run.diverged)


TASK = Task(
    name="heavy-tails",
    about=(
        f"SGD {RATE:g} on |x|^2 / 2 in {DIMENSIONS} dimensions, {STEPS} steps; the gradient has Student's t noise with "
        f"{FREEDOM:g} degrees of freedom, whose variance is infinite."
    ),
    claims=(
        Claim(
            "Under noise of infinite variance SGD may fail to converge, and clipped SGD converges.",
            "J. Zhang, S. P. Karimireddy, A. Veit, S. Kim, S. Reddi, S. Kumar, S. Sra 2020, arXiv:1912.03194",
            better="global:10",
            than="none",
        ),
    ),
    metric=Metric("mean squared distance", x="step", y="squared distance", log="y"),
    rules=(
        "none",
        "global:10",
        "global:3",
        "value:3",
        "smoothclip:10",
        "autoclip",
        "quantileclip",
        "adagc:max_norm=None",
        "zclip:max_norm=None",
    ),
    train=train,
)
