"""A GPT of ten million parameters on English text, trained as language models are.

The net is that of A. Radford et al. 2019 ("Language models are unsupervised multitask learners"): blocks that normalise
first, first weights of deviation 0.02, those of the layers that add to the stream divided by the root of their number.
AdamW, its decay, the warm-up and the cosine are those of T. Brown et al. 2020, arXiv:2005.14165, appendix B, which
clips the global norm at 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn

from gradclip.experiments.outcome import Metric, TrainingOutcome
from gradclip.experiments.tasks.char_lm import cross_entropy, training_windows
from gradclip.experiments.tasks.descent import MakeOptimizer, descend, set_rate, thinned
from gradclip.experiments.tasks.first_weights import drawn
from gradclip.experiments.tasks.task import Task
from gradclip.experiments.training.char_rnn import BIT, WINDOW, english, validation_windows
from gradclip.experiments.training.in_torch import alone
from gradclip.rules.rule import AnyRule

UNITS, HEADS, LAYERS, BATCH, RATE, STEPS, WARMUP = 384, 6, 6, 4, 1e-3, 2000, 100
DEVIATION = 0.02
"""Of the first weights."""
LAST = 0.1
"""The share of the learning rate that the cosine ends at."""
VALIDATED = 64
"""Windows at once in validation."""


class TransformerBlock(nn.Module):
    """Attention to what came before and a layer of four times the width, each added to the stream [B, T, units]."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.before_attention, self.before_mlp = nn.LayerNorm(units), nn.LayerNorm(units)
        self.queries_keys_values, self.attended = nn.Linear(units, 3 * units), nn.Linear(units, units)
        self.widened, self.narrowed = nn.Linear(units, 4 * units), nn.Linear(4 * units, units)

    def forward(self, stream: Tensor) -> Tensor:
        stream = stream + self._attention(self.before_attention(stream))
        added: Tensor = stream + self.narrowed(nn.functional.gelu(self.widened(self.before_mlp(stream))))
        return added

    def _attention(self, x: Tensor) -> Tensor:
        heads = self.queries_keys_values(x).unflatten(-1, (3, HEADS, -1))
        queries, keys, values = heads.permute(2, 0, 3, 1, 4)
        found = nn.functional.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        mixed: Tensor = self.attended(found.transpose(1, 2).flatten(2))
        return mixed


class GPT(nn.Module):
    """Logits of the next character at each position, of those up to it: `[B, T] -> [B, T, symbols]`, T up to 64."""

    def __init__(self, symbols: int, units: int = UNITS, layers: int = LAYERS) -> None:
        super().__init__()
        self.embedding, self.places = nn.Embedding(symbols, units), nn.Embedding(WINDOW, units)
        blocks = [TransformerBlock(units) for _ in range(layers)]
        self.blocks = nn.Sequential(*blocks)
        self.norm, self.readout = nn.LayerNorm(units), nn.Linear(units, symbols, bias=False)
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=DEVIATION)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        for block in blocks:
            for added in (block.attended, block.narrowed):
                nn.init.normal_(added.weight, std=DEVIATION / math.sqrt(2 * layers))

    def forward(self, characters: Tensor) -> Tensor:
        stream = self.embedding(characters) + self.places.weight[: characters.shape[1]]
        logits: Tensor = self.readout(self.norm(self.blocks(stream)))
        return logits


def validation_bits(net: GPT) -> float:
    """The cross entropy on the text that nobody trains on, in bits per character."""
    held = validation_windows(english().validation, WINDOW)
    with alone(), torch.no_grad():
        nats = [
            len(part) * cross_entropy(net, part[:, :-1], part[:, 1:]).item()
            for part in np.split(held, range(VALIDATED, len(held), VALIDATED))
        ]
    return sum(nats) / len(held) / BIT


def share_of_rate(step: int, steps: int) -> float:
    """The share of the learning rate at a step, from 1: up in a line, then down along a cosine to a tenth."""
    if step <= WARMUP:
        return step / WARMUP
    done = (step - WARMUP) / max(steps - WARMUP, 1)
    return LAST + (1 - LAST) * (1 + math.cos(math.pi * done)) / 2


def adamw(parameters: Iterable[nn.Parameter], rate: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, rate, betas=(0.9, 0.95), weight_decay=0.1)


def train(
    rule: AnyRule,
    seed: int,
    steps: int = STEPS,
    rate: float = RATE,
    optimizer: MakeOptimizer = adamw,
    units: int = UNITS,
    layers: int = LAYERS,
) -> TrainingOutcome:
    """Trains on random windows; the metric is the cross entropy on the validation text, in bits per character."""
    text, batches = english(), training_windows(np.random.default_rng(seed), BATCH)
    net = drawn(lambda: GPT(text.symbols, units, layers), seed)
    made = optimizer(net.parameters(), rate)

    def loss(step: int) -> Tensor:
        set_rate(made, rate * share_of_rate(step, steps))
        return cross_entropy(net, *next(batches))

    run = descend(made, rule, loss, steps, net)
    curve = thinned([value / BIT for value in run.losses], of=steps)
    return TrainingOutcome(validation_bits(net), curve=curve, clipped=run.clipped, diverged=run.diverged)


TASK = Task(
    name="gpt",
    about=(
        f"A GPT of {LAYERS} layers of {UNITS} units with {HEADS} heads, 10.7 million parameters, predicts the next "
        f"character of English text (`pydoc_data.topics`, which comes with Python). AdamW {RATE:g} with betas 0.9 and "
        f"0.95 and decay 0.1, {WARMUP} steps of warm-up and a cosine, {STEPS} steps on {BATCH} windows of {WINDOW} "
        "characters; the published threshold is 1 (T. Brown et al. 2020, arXiv:2005.14165). The metric is the cross "
        "entropy on the last tenth of the text."
    ),
    claims=(),
    metric=Metric("validation bits per character", y="bits per character of the batch", log="y", margin=0.02),
    rules=("none", "global:1", "global:0.1"),
    train=train,
)
