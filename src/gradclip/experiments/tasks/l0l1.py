"""Two functions that are not smooth in the usual sense: the further out, the steeper and the more curved.

`x^4 / 4` from about 10 and `2 cosh x` from about 8 have no bound on the second derivative, but one that grows with the
gradient, L0 + L1 |f'|. A step size that is small enough far out is far too small near the optimum. Each function is
descended with each step size of a list; the metric is the number of steps that the best step size took until
|x| < 0.3, both functions together. A step size that never arrived counts as infinite.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from gradclip.experiments.outcome import Metric, TrainingOutcome
from gradclip.experiments.tasks.descent import MakeOptimizer, descend
from gradclip.experiments.tasks.task import Claim, Task
from gradclip.rules.rule import AnyRule

STEP_SIZES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
Function = Callable[[Tensor], Tensor]
FUNCTIONS: tuple[tuple[Function, float], ...] = (
    (lambda x: x**4 / 4, 10.5),
    (lambda x: 2 * torch.cosh(x), 8.0),
)
"""Each function, and about where its descent begins."""
STEPS, NEAR = 3000, 0.3


def train(
    rule: AnyRule,
    seed: int,
    steps: int = STEPS,
    step_sizes: tuple[float, ...] = STEP_SIZES,
    optimizer: MakeOptimizer = torch.optim.SGD,
) -> TrainingOutcome:
    """Descends both functions with each step size; the curve is the number of steps by step size."""
    random = torch.Generator().manual_seed(seed)
    factors = (0.9 + 0.2 * torch.rand(len(FUNCTIONS), generator=random)).tolist()
    taken = [
        [_steps_to_arrive(rule, function, factor * start, size, steps, optimizer) for size in step_sizes]
        for (function, start), factor in zip(FUNCTIONS, factors, strict=True)
    ]
    best = sum(min(row) for row in taken)
    totals = [sum(column) for column in zip(*taken, strict=True)]
    never = None if math.isfinite(best) else f"every step size, or not there after {steps} steps"
    return TrainingOutcome(best, curve=tuple(zip(step_sizes, totals, strict=True)), diverged=never)


def _steps_to_arrive(
    rule: AnyRule, function: Function, start: float, step_size: float, steps: int, optimizer: MakeOptimizer
) -> float:
    """The steps until the optimum is near, infinite where that was not so after `steps`."""
    place = torch.nn.Parameter(torch.tensor([start]))
    run = descend(
        optimizer([place], step_size),
        rule,
        lambda step: function(place).sum(),
        steps,
        done=lambda step: near(place),
    )
    return len(run.losses) if near(place) else math.inf


def near(place: Tensor) -> bool:
    return abs(place.item()) < NEAR


TASK = Task(
    name="l0l1",
    about=(
        "SGD on x^4 / 4 and on 2 cosh x, from far out, with the step sizes "
        f"{', '.join(f'{size:g}' for size in STEP_SIZES)}. The metric is the number of steps until |x| < {NEAR:g} with "
        "the best step size, both functions together."
    ),
    claims=(
        Claim(
            "Where the curvature grows with the gradient, clipped gradient descent is faster than with any fixed step "
            "size and no clipping.",
            "J. Zhang, T. He, S. Sra, A. Jadbabaie 2020, arXiv:1905.11881",
            better="global:1",
            than="none",
        ),
    ),
    metric=Metric("steps with the best step size", x="step size", y="steps", log="xy"),
    rules=("none", "global:1", "global:10", "smoothclip:1", "normalizedgradient", "zclip", "autoclip"),
    train=train,
)
