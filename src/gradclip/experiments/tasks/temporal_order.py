"""Temporal order: two symbols, A or B, stand in a long row of others; which of AA, AB, BA and BB was it?

The first symbol is in the second tenth of the sequence, the second in the sixth, all other places hold one of four
distractors. Net and first weights are those that the paper calls smart: 50 tanh units, 15 recurrent weights into each,
scaled to a spectral radius of 0.95, all others normal with 0.01. Plain SGD on batches of 20.

The paper gives up to five million updates at a rate of 0.01. Here are 3000 at 0.05 and sequences of 40, which is
enough for clipping to show: the gradient is tiny for a long while and explodes where the net begins to remember.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gradclip.experiments.outcome import Metric, TrainingOutcome
from gradclip.experiments.tasks.descent import MakeOptimizer, descend
from gradclip.experiments.tasks.task import Claim, Task
from gradclip.rules.rule import AnyRule

LENGTH, UNITS, BATCH, RATE, STEPS = 40, 50, 20, 0.05, 3000
CONNECTIONS, RADIUS, SPREAD = 15, 0.95, 0.01
SYMBOLS, ORDERS = 6, 4
TESTED, TEST_SEED, EVERY = 1000, 2**31, 200
SOLVED = 0.01
"""The share of wrong answers below which the paper calls the task solved."""


def sequences(count: int, length: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """One-hot symbols [count, length, 6], the first two of which are A and B, and the order [count] in 0 to 3."""
    symbols = torch.randint(2, SYMBOLS, (count, length), generator=random)
    tenth = length // 10
    answers = torch.randint(2, (count, 2), generator=random)
    for column, begin in enumerate((tenth, 5 * tenth)):
        places = begin + torch.randint(tenth, (count,), generator=random)
        symbols[torch.arange(count), places] = answers[:, column]
    return nn.functional.one_hot(symbols, SYMBOLS).float(), answers[:, 0] + 2 * answers[:, 1]


class Net(nn.Module):
    """A tanh RNN that answers at the end of the sequence."""

    def __init__(self, random: torch.Generator) -> None:
        super().__init__()
        self.recurrence = nn.RNN(SYMBOLS, UNITS, batch_first=True)
        self.readout = nn.Linear(UNITS, ORDERS)
        with torch.no_grad():
            for parameter in self.parameters():
                scale = SPREAD if parameter.dim() > 1 else 0.0
                parameter.copy_(scale * torch.randn(parameter.shape, generator=random))
            self.recurrence.get_parameter("weight_hh_l0").copy_(recurrent_weights(random))

    def forward(self, symbols: Tensor) -> Tensor:
        states, _ = self.recurrence(symbols)
        answer: Tensor = self.readout(states[:, -1])
        return answer


def recurrent_weights(random: torch.Generator) -> Tensor:
    """Sparse weights [units, units] of spectral radius 0.95."""
    chosen = torch.rand((UNITS, UNITS), generator=random).argsort(dim=1) < CONNECTIONS
    weights = torch.randn((UNITS, UNITS), generator=random) * chosen
    return weights * (RADIUS / float(torch.linalg.eigvals(weights).abs().max()))


def train(
    rule: AnyRule,
    seed: int,
    steps: int = STEPS,
    length: int = LENGTH,
    rate: float = RATE,
    optimizer: MakeOptimizer = torch.optim.SGD,
) -> TrainingOutcome:
    """Trains until the task is solved; the metric is the share of wrong answers on sequences that nobody trains on."""
    random = torch.Generator().manual_seed(seed)
    net = Net(random)
    tests, orders = sequences(TESTED, length, torch.Generator().manual_seed(TEST_SEED))
    wrong: list[tuple[float, float]] = []

    def loss(step: int) -> Tensor:
        symbols, answers = sequences(BATCH, length, random)
        return nn.functional.cross_entropy(net(symbols), answers)

    def solved(step: int) -> bool:
        if step % EVERY == 0 or step == steps:
            with torch.no_grad():
                wrong.append((step, (net(tests).argmax(1) != orders).float().mean().item()))
        return bool(wrong) and wrong[-1][1] < SOLVED

    run = descend(optimizer(net.parameters(), rate), rule, loss, steps, net, solved)
    return TrainingOutcome(
        wrong[-1][1] if wrong else 1.0, curve=tuple(wrong), clipped=run.clipped, diverged=run.diverged
    )


TASK = Task(
    name="temporal-order",
    about=(
        f"A tanh RNN of {UNITS} units reads {LENGTH} symbols and says in which order A and B came. SGD {RATE:g}, "
        f"batches of {BATCH}, at most {STEPS} updates, ended where less than 1 % is wrong. Guessing is wrong in 75 %. "
        "The paper gives up to five million updates at a lower rate, and solves the task."
    ),
    claims=(
        Claim(
            "An RNN learns the temporal order of symbols far apart when the norm of its gradient is clipped at 1, "
            "where plain SGD fails.",
            "R. Pascanu, T. Mikolov, Y. Bengio 2013, arXiv:1211.5063, section 4.1",
            better="global:1",
            than="none",
        ),
    ),
    metric=Metric("share of wrong answers", x="update", y="share of wrong answers"),
    rules=("none", "global:1", "global:0.1", "value:0.1", "autoclip", "adagc", "zclip"),
    train=train,
)
