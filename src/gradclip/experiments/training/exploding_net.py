"""The seed experiment: a small linear net that explodes within five steps, and trains when its weights are clipped.

1000 points, x standard normal, y = x + 3; a net 1-32-32-1 of three linear layers with biases and no activation, all
parameters drawn standard normal and the first weight shifted by +2; batches of 16, SGD with learning rate 0.01, mean
squared error, 100 steps. The rule is `ClipGradByNorm(1.0)` in both runs. The runs differ in one thing only:

* *without*: `need_clip` leaves the weights out, so that only the biases are clipped;
* *with*: weights and biases are clipped.

A product of three random matrices is steep: the gradient norm starts near 10,000, the first step overshoots, and every
further one is larger. That is the cliff of R. Pascanu, T. Mikolov, Y. Bengio 2013, arXiv:1211.5063, section 2.3.

Measured in PyTorch over the seeds 0 to 599: without, 600 of 600 reach an infinite or NaN loss at step 3 or 4. With,
the loss over all points ends between 0.07 and 2.5 for 583, the median of all is 0.84, from 3000 at the start. The other
17 end between 2.6 and 2400: in 100 steps of 0.01 no tensor can move further than 1.0, which is not far enough for them
(given 300 steps, all of them arrived). They are reported like the others.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gradclip import ClipGradByNorm
from gradclip.experiments.training.framework import Array, Framework
from gradclip.experiments.training.loop import OnStep, train
from gradclip.experiments.training.training_run import TrainingRun, runs_of

WITHOUT, WITH = "biases only", "weights and biases"
THRESHOLD = 1.0
LEARNING_RATE, STEPS, BATCH, POINTS, WIDTH = 0.01, 100, 16, 1000, 32
SEEDS = 5
TITLE = "seed experiment"
LOGGED = frozenset({1, 2, 3, 4, 5, 10, 20, 50, STEPS})
"""The steps that a person wants to see: every one while it explodes, then a few."""
BREAKS_WITHIN = 5
ARRIVED = 2.5
"""A final loss that counts as trained: of the 600 measured, 583 are below 2.3 and 17 above 2.6."""


@dataclass(frozen=True)
class ExplodingNets:
    """The runs of all seeds, without and with."""

    runs: tuple[TrainingRun, ...]

    @property
    def without(self) -> list[TrainingRun]:
        """The runs in which the weights are left alone."""
        return runs_of(self.runs, WITHOUT)

    @property
    def clipped(self) -> list[TrainingRun]:
        """The runs in which everything is clipped."""
        return runs_of(self.runs, WITH)

    @property
    def arrived(self) -> list[TrainingRun]:
        """The clipped runs that trained."""
        return [run for run in self.clipped if run.end <= ARRIVED]

    def shortfalls(self) -> list[str]:
        """What did not end as described, in words; most seeds have to train, because a few in a hundred do not."""
        reasons = [
            f"seed experiment, seed {run.seed}: the loss without clipping was still finite after {BREAKS_WITHIN} steps"
            for run in self.without
            if run.broke_at is None or run.broke_at > BREAKS_WITHIN
        ]
        if len(self.arrived) * 2 <= len(self.clipped):
            ends = ", ".join(f"{run.end:.3g}" for run in self.clipped)
            reasons.append(
                f"seed experiment: with clipping most seeds should end below {ARRIVED}, they ended at {ends}"
            )
        return reasons

    def typical_start(self) -> float:
        """The median loss before training."""
        return statistics.median(run.start for run in self.clipped)

    def typical_end(self) -> float:
        """The median final loss with clipping."""
        return statistics.median(run.end for run in self.clipped)


def run_exploding_net(
    framework: Framework, seed: int, clipping: str, on_step: OnStep = lambda step: None
) -> TrainingRun:
    """One seed, one kind of clipping; both kinds see the same points, the same net and the same batches."""
    random = np.random.default_rng(seed)
    x = random.standard_normal((POINTS, 1)).astype(np.float32)
    y = x + 3
    layers = exploding_layers(random)
    with framework.alone():
        learner = framework.exploding_net(layers, ClipGradByNorm(THRESHOLD), clipping == WITH, LEARNING_RATE)
        steps = train(learner, batches(x, y, random), STEPS, on_step)
        end = learner.loss(x, y)
    return TrainingRun(clipping, seed, LEARNING_RATE, steps, end, learner.engine)


def exploding_layers(random: np.random.Generator) -> list[tuple[Array, Array]]:
    """Weight [in, out] and bias of three linear layers, drawn far too large."""
    sizes = ((1, WIDTH), (WIDTH, WIDTH), (WIDTH, 1))
    layers = [
        (random.standard_normal(size).astype(np.float32), random.standard_normal(size[1]).astype(np.float32))
        for size in sizes
    ]
    layers[0][0][...] += 2.0
    return layers


def batches(x: Array, y: Array, random: np.random.Generator) -> Iterator[tuple[Array, Array]]:
    """Batch after batch; each pass over the points has an order of its own."""
    while True:
        order = random.permutation(len(x))
        for start in range(0, len(x) - BATCH + 1, BATCH):
            batch = order[start : start + BATCH]
            yield x[batch], y[batch]
