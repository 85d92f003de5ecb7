"""The character RNN again, at a rate that it survives, with a bad batch every 50 steps.

The bad batches are such as real training meets: the targets of a batch in another order (labels that do not belong to
their inputs), and windows of one character repeated (a broken document), in turns. Their loss weighs a hundred times
as much, as that of a few examples does where a loss is not divided by their number. The optimizer is Adam with its
usual settings, whose memory of a large gradient outlasts it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gradclip.experiments.outcome import Metric, TrainingOutcome
from gradclip.experiments.tasks.char_lm import cross_entropy, drawn_net, training_windows, validation_bits
from gradclip.experiments.tasks.descent import MakeOptimizer, descend, thinned
from gradclip.experiments.tasks.task import Claim, Task
from gradclip.experiments.training.char_rnn import BATCH, BIT, WINDOW
from gradclip.experiments.training.framework import Array
from gradclip.rules.rule import AnyRule

RATE, STEPS, EVERY, WEIGHT = 0.01, 600, 50, 100.0
"""The learning rate of Adam, the number of steps, the distance of bad batches, and the weight of their loss."""
QUIET = 100
"""Steps before the first bad batch, so that a rule has something to learn from."""


def is_bad(step: int) -> bool:
    """Whether the batch of `step` is a bad one."""
    return step > QUIET and step % EVERY == 0


def bad_batch(inputs: Array, targets: Array, step: int, random: np.random.Generator) -> tuple[Array, Array]:
    """Made of the inputs and targets [B, T] of a good one: shuffled targets and repeated characters in turns."""
    if step // EVERY % 2:
        return inputs, random.permuted(targets)
    repeated = np.repeat(inputs[:, :1], inputs.shape[1], axis=1)
    return repeated, np.roll(repeated, 1, axis=0)


def train(
    rule: AnyRule,
    seed: int,
    steps: int = STEPS,
    rate: float = RATE,
    optimizer: MakeOptimizer = torch.optim.Adam,
) -> TrainingOutcome:
    """Trains through the bad batches; the metric is the cross entropy on the validation text, in bits per character."""
    random = np.random.default_rng(seed)
    net, batches = drawn_net(random), training_windows(random)
    good: list[float] = []

    def loss(step: int) -> Tensor:
        inputs, targets = next(batches)
        if is_bad(step):
            return WEIGHT * cross_entropy(net, *bad_batch(inputs, targets, step, random))
        value = cross_entropy(net, inputs, targets)
        good.append(value.item() / BIT)
        return value

    run = descend(optimizer(net.parameters(), rate), rule, loss, steps, net)
    curve = thinned(good, of=steps - sum(map(is_bad, range(1, steps + 1))))
    return TrainingOutcome(validation_bits(net), curve=curve, clipped=run.clipped, diverged=run.diverged)


TASK = Task(
    name="bad-batches",
    about=(
        f"The tanh RNN of the character task, Adam {RATE:g}, {STEPS} steps on {BATCH} windows of {WINDOW} characters. "
        f"After step {QUIET} every {EVERY}th batch has shuffled targets or repeats one character, and its loss weighs "
        f"{WEIGHT:g} times as much. The metric is the cross entropy on text that nobody trains on."
    ),
    claims=(
        Claim(
            "A threshold on the z-score of the norm takes loss spikes away that come without clipping.",
            "A. Kumar, L. Owen, N. R. Chowdhury, F. Güra 2025, arXiv:2504.02507 (ZClip)",
            better="zclip",
            than="none",
        ),
        Claim(
            "A threshold on the z-score trains better through spikes than a fixed one.",
            "A. Kumar, L. Owen, N. R. Chowdhury, F. Güra 2025, arXiv:2504.02507 (ZClip)",
            better="zclip",
            than="global:1",
        ),
        Claim(
            "A threshold for each tensor that follows its own norms trains better than one for the global norm.",
            "G. Wang et al. 2025, arXiv:2502.11034 (AdaGC)",
            better="adagc",
            than="global:1",
        ),
        Claim(
            "Clipping elements far above the root of their second moment takes spikes away from Adam.",
            "T. Huang et al. 2025, arXiv:2501.06842 (SPAM)",
            better="spam",
            than="none",
        ),
        Claim(
            "Clipping spiked elements and normalising each tensor by its past keeps Adam stable.",
            "T. Huang et al. 2025, arXiv:2502.17055 (Stable-SPAM)",
            better="stablespam",
            than="none",
        ),
    ),
    metric=Metric("validation bits per character", y="bits per character, good batches", log="y"),
    rules=(
        "none",
        "global:1",
        "global:0.25",
        "value:0.01",
        "agc",
        "autoclip",
        "adagc",
        "zclip",
        "zclip:max_norm=None",
        "skipspikes",
        "skipspikes:max_norm=None",
        "spam",
        "stablespam",
    ),
    train=train,
)
