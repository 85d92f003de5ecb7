"""An LSTM learns which word comes next, as W. Zaremba, I. Sutskever, O. Vinyals 2014 trained their small one.

arXiv:1409.2329: two layers of 200 units, plain SGD at a rate of 1 that is halved in each epoch after the first four, 20
streams of text read 20 words at a time with the state carried on, the loss summed over these words, and the global norm
clipped at 5. The text is another one and smaller, and so are the number of epochs and the vocabulary.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from gradclip.experiments.outcome import Metric, TrainingOutcome
from gradclip.experiments.tasks.descent import MakeOptimizer, descend, set_rate, thinned
from gradclip.experiments.tasks.first_weights import drawn
from gradclip.experiments.tasks.task import Task
from gradclip.experiments.training.char_rnn import BIT, help_texts
from gradclip.experiments.training.in_torch import alone
from gradclip.rules.rule import AnyRule

UNITS, LAYERS, STREAMS, WINDOW, RATE, EPOCHS, FULL_RATE = 200, 2, 20, 20, 1.0, 7, 4
SPREAD = 0.1
"""First weights are uniform within this of 0."""
WORD = r"\w+|([^\w\s])\1*"
"""A word, or a sign however often it is repeated."""
SELDOM = 3
"""Words that stand in the text less often are one word, the unknown one."""

State = tuple[Tensor, Tensor]


class Words(NamedTuple):
    """The text as the numbers of its words, [N] to train on and [M] to validate, and how many words there are."""

    train: Tensor
    validation: Tensor
    vocabulary: int


@cache
def words() -> Words:
    """The help texts of Python in words and signs, in the order of their titles: the last tenth is to validate."""
    found = [word[0] for word in re.finditer(WORD, " ".join(help_texts()))]
    known = sorted(word for word, times in Counter(found).items() if times >= SELDOM)
    numbers = {word: number for number, word in enumerate(known, 1)}
    text = torch.tensor([numbers.get(word, 0) for word in found])
    cut = len(text) * 9 // 10
    return Words(text[:cut], text[cut:], len(numbers) + 1)


class LSTM(nn.Module):
    """Logits of the next word at each place, and the state after the last: `[B, T] -> [B, T, vocabulary]`."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, UNITS)
        self.lstm = nn.LSTM(UNITS, UNITS, LAYERS, batch_first=True)
        self.readout = nn.Linear(UNITS, vocabulary)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -SPREAD, SPREAD)

    def forward(self, read: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        units, after = self.lstm(self.embedding(read), state)
        return self.readout(units), after


def streams(text: Tensor, number: int) -> Tensor:
    """The text in so many rows [number, T], each going on where the last one ends; what is left over is left."""
    return text[: len(text) // number * number].view(number, -1)


def windows(rows: Tensor) -> Iterator[Tensor]:
    """Stretches [B, T + 1] of the rows, one after another, which overlap by a word."""
    for start in range(0, rows.shape[1] - 1, WINDOW):
        yield rows[:, start : start + WINDOW + 1]


def nats(net: LSTM, window: Tensor, state: State | None) -> tuple[Tensor, State]:
    """The cross entropy of each word but the first given those before it, [B, T], and the state after."""
    logits, after = net(window[:, :-1], state)
    return nn.functional.cross_entropy(logits.mT, window[:, 1:], reduction="none"), after


def perplexity(net: LSTM, text: Tensor) -> float:
    """The exponential of the mean cross entropy of a text."""
    with alone(), torch.no_grad():
        each, _ = nats(net, text[None], None)
    mean = each.double().mean().item()
    return math.exp(mean) if mean < math.log(1e300) else math.inf


def train(
    rule: AnyRule,
    seed: int,
    steps: int | None = None,
    rate: float = RATE,
    optimizer: MakeOptimizer = torch.optim.SGD,
) -> TrainingOutcome:
    """Trains through the text again and again, from a place drawn at random; the metric is the perplexity of the words
    that nobody trains on."""
    text = words()
    net = drawn(lambda: LSTM(text.vocabulary), seed)
    begun = int(np.random.default_rng(seed).integers(len(text.train)))
    rows = streams(text.train.roll(begun), STREAMS)
    epoch = sum(1 for _ in windows(rows))
    made = optimizer(net.parameters(), rate)
    read: Iterator[Tensor] = iter(())
    state: State | None = None

    def loss(step: int) -> Tensor:
        nonlocal read, state
        epochs, windows_read = divmod(step - 1, epoch)
        if windows_read == 0:
            read, state = windows(rows), None
            set_rate(made, rate * 0.5 ** max(epochs + 1 - FULL_RATE, 0))
        each, after = nats(net, next(read), state)
        state = (after[0].detach(), after[1].detach())
        return each.sum(1).mean()

    steps = EPOCHS * epoch if steps is None else steps
    run = descend(made, rule, loss, steps, net)
    curve = thinned([value / WINDOW / BIT for value in run.losses], of=steps)
    return TrainingOutcome(perplexity(net, text.validation), curve=curve, clipped=run.clipped, diverged=run.diverged)


TASK = Task(
    name="lstm",
    about=(
        f"An LSTM with {LAYERS} layers of {UNITS} units predicts the next word of English text (`pydoc_data.topics`, "
        f"which comes with Python; words that stand there less than {SELDOM} times are one). SGD {RATE:g}, halved in "
        f"each epoch after the first {FULL_RATE}, {EPOCHS} epochs on {STREAMS} streams, {WINDOW} words at a time with "
        "the state carried on; the loss is summed over these words, and the published threshold is 5 (W. Zaremba, I. "
        "Sutskever, O. Vinyals 2014, arXiv:1409.2329). The metric is the perplexity of the last tenth of the text."
    ),
    claims=(),
    metric=Metric("validation perplexity", y="bits per word of the batch", log="y", margin=0.02, relative=True),
    rules=("none", "global:5", "global:1", "global:20", "steplength:1"),
    train=train,
)
