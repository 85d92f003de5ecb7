"""A small transformer on English text, where one target in five is a symbol drawn at random.

The text is that of the character RNN. The validation text is clean, so that what was learnt of the noise costs: the
best that a net can do is to learn the language and to be as unsure as the noise makes it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from gradclip.experiments.outcome import Metric, TrainingOutcome
from gradclip.experiments.tasks.char_lm import cross_entropy, training_windows
from gradclip.experiments.tasks.descent import MakeOptimizer, descend, thinned
from gradclip.experiments.tasks.first_weights import drawn
from gradclip.experiments.tasks.task import Task
from gradclip.experiments.training.char_rnn import BATCH, BIT, WINDOW, english, validation_windows
from gradclip.experiments.training.framework import Array
from gradclip.experiments.training.in_torch import alone
from gradclip.rules.rule import AnyRule

UNITS, HEADS, LAYERS, RATE, STEPS, NOISE = 48, 4, 1, 3e-3, 250, 0.2


class Transformer(nn.Module):
    """Logits of the next character at each position, of those up to it: `[B, T] -> [B, T, symbols]`, T up to 64."""

    def __init__(self, symbols: int) -> None:
        super().__init__()
        self.embedding, self.places = nn.Embedding(symbols, UNITS), nn.Embedding(WINDOW, UNITS)
        layer = nn.TransformerEncoderLayer(UNITS, HEADS, 4 * UNITS, dropout=0.0, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, LAYERS, nn.LayerNorm(UNITS), enable_nested_tensor=False)
        self.readout = nn.Linear(UNITS, symbols)

    def forward(self, characters: Tensor) -> Tensor:
        length = characters.shape[1]
        later = nn.Transformer.generate_square_subsequent_mask(length)
        states = self.layers(self.embedding(characters) + self.places.weight[:length], mask=later, is_causal=True)
        logits: Tensor = self.readout(states)
        return logits


def noisy(targets: Array, symbols: int, random: np.random.Generator) -> Array:
    """The targets [B, T], a fifth of them replaced by any symbol, all alike."""
    replaced = random.random(targets.shape) < NOISE
    return np.where(replaced, random.integers(symbols, size=targets.shape), targets)


def train(
    rule: AnyRule,
    seed: int,
    steps: int = STEPS,
    rate: float = RATE,
    optimizer: MakeOptimizer = torch.optim.AdamW,
) -> TrainingOutcome:
    """Trains on noisy targets; the metric is the cross entropy on the clean validation text, in bits per character."""
    text, random = english(), np.random.default_rng(seed)
    net, batches = drawn(lambda: Transformer(text.symbols), seed), training_windows(random)

    def loss(step: int) -> Tensor:
        inputs, targets = next(batches)
        return cross_entropy(net, inputs, noisy(targets, text.symbols, random))

    run = descend(optimizer(net.parameters(), rate), rule, loss, steps, net)
    held = validation_windows(text.validation, WINDOW)
    with alone(), torch.no_grad():
        bits = cross_entropy(net, held[:, :-1], held[:, 1:]).item() / BIT
    curve = thinned([value / BIT for value in run.losses], of=steps)
    return TrainingOutcome(bits, curve=curve, clipped=run.clipped, diverged=run.diverged)


TASK = Task(
    name="label-noise",
    about=(
        f"A transformer ({LAYERS} layer of {UNITS} units, {HEADS} heads) predicts the next character of English text; "
        f"in training {NOISE:.0%} of the targets are replaced by any symbol. AdamW {RATE:g}, {STEPS} steps on {BATCH} "
        f"windows of {WINDOW} characters. The metric is the cross entropy on clean text that nobody trains on."
    ),
    claims=(),
    metric=Metric("validation bits per character", y="bits per character of the noisy batch", log="y"),
    rules=("none", "global:1", "global:0.1"),
    train=train,
)
