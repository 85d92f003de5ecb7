"""The character RNN of the demo, at a rate that it does not survive without clipping."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from gradclip.experiments.outcome import Metric, TrainingOutcome
from gradclip.experiments.tasks.descent import MakeOptimizer, descend, thinned
from gradclip.experiments.tasks.task import Claim, Task
from gradclip.experiments.training.char_rnn import (
    BATCH,
    BIT,
    LEARNING_RATE,
    STEPS,
    UNITS,
    WINDOW,
    drawn_weights,
    english,
    validation_windows,
    windows,
)
from gradclip.experiments.training.framework import Array
from gradclip.experiments.training.in_torch import CharRNN, alone
from gradclip.rules.rule import AnyRule


def train(
    rule: AnyRule,
    seed: int,
    steps: int = STEPS,
    rate: float = LEARNING_RATE,
    optimizer: MakeOptimizer = torch.optim.SGD,
) -> TrainingOutcome:
    """Trains on random windows; the metric is the cross entropy on the validation text, in bits per character."""
    random = np.random.default_rng(seed)
    net, batches = drawn_net(random), training_windows(random)
    run = descend(optimizer(net.parameters(), rate), rule, lambda step: cross_entropy(net, *next(batches)), steps, net)
    curve = thinned([loss / BIT for loss in run.losses], of=steps)
    return TrainingOutcome(validation_bits(net), curve=curve, clipped=run.clipped, diverged=run.diverged)


def drawn_net(random: np.random.Generator) -> CharRNN:
    """The net with its first weights."""
    symbols = english().symbols
    net = CharRNN(symbols, UNITS)
    drawn = drawn_weights(random, symbols)
    net.load_state_dict(dict(zip(net.state_dict(), map(torch.from_numpy, drawn.values()), strict=True)))
    return net


def training_windows(random: np.random.Generator, batch: int = BATCH) -> Iterator[tuple[Array, Array]]:
    """Batch after batch of inputs and targets [B, T] of the text, from places drawn at random."""
    return ((window[:, :-1], window[:, 1:]) for (window,) in windows(english().train, random, batch))


def cross_entropy(net: nn.Module, inputs: Array, targets: Array) -> Tensor:
    """The mean cross entropy of targets [B, T] given inputs [B, T], in nats."""
    logits = net(torch.from_numpy(inputs))
    return nn.functional.cross_entropy(logits.flatten(0, 1), torch.from_numpy(targets).flatten())


def validation_bits(net: CharRNN) -> float:
    """The cross entropy on the text that nobody trains on, in bits per character."""
    held = validation_windows(english().validation)
    with alone(), torch.no_grad():
        return cross_entropy(net, held[:, :-1], held[:, 1:]).item() / BIT


TASK = Task(
    name="char-lm",
    about=(
        f"A tanh RNN of {UNITS} units predicts the next character of English text (`pydoc_data.topics`, which comes "
        f"with Python). SGD {LEARNING_RATE:g}, {STEPS} steps on {BATCH} windows of {WINDOW} characters. The metric is "
        "the cross entropy on the last tenth of the text."
    ),
    claims=(
        Claim(
            "Clipping the norm of the gradient lets an RNN learn a language at rates where it explodes without.",
            "R. Pascanu, T. Mikolov, Y. Bengio 2013, arXiv:1211.5063, section 4.2",
            better="global:0.25",
            than="none",
        ),
        Claim(
            "A threshold at a percentile of the norms so far trains better than none.",
            "P. Seetharaman, G. Wichern, B. Pardo, J. Le Roux 2020, arXiv:2007.14469 (AutoClip)",
            better="autoclip",
            than="none",
        ),
    ),
    metric=Metric("validation bits per character", y="bits per character of the batch", log="y"),
    rules=(
        "none",
        "global:0.25",
        "global:1",
        "norm:0.1",
        "value:0.01",
        "agc",
        "autoclip",
        "adagc",
        "zclip",
        "zclip:max_norm=None",
    ),
    train=train,
)
