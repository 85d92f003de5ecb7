"""A GAN learns a ring of eight Gaussians: two nets, each with its optimizer and its clipper, and no loss that falls.

I. Goodfellow et al. 2014, arXiv:1406.2661, with the loss for the generator that does not saturate; the ring is that of
L. Metz et al. 2017, arXiv:1611.02163. What was learnt is measured by the sliced Wasserstein distance: samples of both
are projected onto fixed directions, sorted, and their mean distance taken.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from gradclip.experiments.outcome import Metric, TrainingOutcome
from gradclip.experiments.tasks.descent import MakeOptimizer, Turn, take_turns
from gradclip.experiments.tasks.first_weights import drawn
from gradclip.experiments.tasks.task import Task
from gradclip.rules.rule import AnyRule

MODES, RADIUS, DEVIATION = 8, 2.0, 0.1
LATENT, UNITS, BATCH, RATE, STEPS = 8, 64, 128, 3e-3, 800
BETAS = (0.5, 0.9)
DIRECTIONS, SAMPLES, EVERY, TEST_SEED = 32, 1024, 50, 2**31
LATE = 5
"""The metric is the mean of the last so many distances, for one alone says where a GAN happens to stand."""


def ring(count: int, random: torch.Generator) -> Tensor:
    """Samples [N, 2] of the mixture."""
    angles = 2 * math.pi / MODES * torch.randint(MODES, (count,), generator=random)
    centres = RADIUS * torch.stack((angles.cos(), angles.sin()), 1)
    return centres + DEVIATION * torch.randn((count, 2), generator=random)


def mlp(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, UNITS), nn.ReLU(), nn.Linear(UNITS, UNITS), nn.ReLU(), nn.Linear(UNITS, outputs)
    )


def nets() -> nn.ModuleDict:
    return nn.ModuleDict({"discriminator": mlp(2, 1), "generator": mlp(LATENT, 2)})


def sliced_wasserstein(ours: Tensor, theirs: Tensor) -> float:
    """The Wasserstein distance between samples [N, 2] and [N, 2] projected onto a direction, meant over directions."""
    angles = math.pi / DIRECTIONS * torch.arange(DIRECTIONS)
    directions = torch.stack((angles.cos(), angles.sin()))
    ours, theirs = ((points @ directions).sort(dim=0).values for points in (ours, theirs))
    return (ours - theirs).abs().mean().item()


def adam(parameters: Iterable[nn.Parameter], rate: float) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, rate, BETAS)


def train(
    rule: AnyRule, seed: int, steps: int = STEPS, rate: float = RATE, optimizer: MakeOptimizer = adam
) -> TrainingOutcome:
    """Trains both nets in turns; the metric is the mean of the last distances to the mixture."""
    random, tests = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(TEST_SEED)
    both = drawn(nets, seed)
    discriminator, generator = both["discriminator"], both["generator"]
    truth, latent = ring(SAMPLES, tests), torch.randn((SAMPLES, LATENT), generator=tests)
    distances: list[tuple[float, float]] = []

    def made() -> Tensor:
        found: Tensor = generator(torch.randn((BATCH, LATENT), generator=random))
        return found

    def of_discriminator(step: int) -> Tensor:
        real, fake = discriminator(ring(BATCH, random)), discriminator(made().detach())
        return nn.functional.softplus(-real).mean() + nn.functional.softplus(fake).mean()

    def of_generator(step: int) -> Tensor:
        return nn.functional.softplus(-discriminator(made())).mean()

    def measured(step: int) -> bool:
        if step % EVERY == 0 or step == steps:
            with torch.no_grad():
                distances.append((step, sliced_wasserstein(generator(latent), truth)))
        return False

    turns = [
        Turn(optimizer(discriminator.parameters(), rate), of_discriminator),
        Turn(optimizer(generator.parameters(), rate), of_generator),
    ]
    run = take_turns(turns, rule, steps, both, measured)
    metric = math.nan if run.diverged else statistics.fmean(distance for _, distance in distances[-LATE:])
    return TrainingOutcome(metric, curve=tuple(distances), clipped=run.clipped, diverged=run.diverged)


TASK = Task(
    name="gan",
    about=(
        f"A GAN of two MLPs ({UNITS} and {UNITS} units) learns {MODES} Gaussians on a ring of radius {RADIUS:g}, Adam "
        f"{RATE:g} with betas {BETAS[0]:g} and {BETAS[1]:g}, {STEPS} rounds on batches of {BATCH}; the rule clips each "
        f"of the nets by itself. The metric is the sliced Wasserstein distance between {SAMPLES} samples of both, the "
        f"mean of the last {LATE} that were taken, one every {EVERY} rounds."
    ),
    claims=(),
    metric=Metric("sliced Wasserstein distance", x="round", y="sliced Wasserstein distance", log="y"),
    rules=("none", "global:1", "global:0.1"),
    train=train,
)
