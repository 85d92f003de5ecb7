"""The nets of the experiments in PyTorch, clipped by `gradclip.torch.attach`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from gradclip.experiments.training.framework import Array
from gradclip.rules.rule import AnyRule
from gradclip.torch import Clipper, attach

name = "torch"


def version() -> str:
    return str(torch.__version__)


@contextmanager
def alone() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class TorchLearner:
    """A module, plain SGD, and what is attached to it."""

    def __init__(self, net: nn.Module, loss: Callable[..., Tensor], rule: AnyRule | None, rate: float, **options: Any):
        self._net, self._loss = net, loss
        self._optimizer = torch.optim.SGD(net.parameters(), lr=rate)
        self._clipper = None if rule is None else attach(self._optimizer, rule, model=net, **options)

    @property
    def engine(self) -> str | None:
        return None if self._clipper is None else self._clipper.last.engine

    def step(self, *batch: Array) -> tuple[float, list[Array], list[Array]]:
        self._optimizer.zero_grad()
        loss = self._loss(*map(torch.from_numpy, batch))
        loss.backward()
        before = self._gradients()
        self._optimizer.step()
        return loss.item(), before, self._gradients()

    def loss(self, *batch: Array) -> float:
        with torch.no_grad():
            return self._loss(*map(torch.from_numpy, batch)).item()

    def _gradients(self) -> list[Array]:
        return [p.grad.numpy().copy() for p in self._net.parameters() if p.grad is not None]


def exploding_net(
    layers: Sequence[tuple[Array, Array]], rule: AnyRule, weights_too: bool, learning_rate: float
) -> TorchLearner:
    net = nn.Sequential(*(nn.Linear(*weight.shape) for weight, _ in layers))
    drawn = chain.from_iterable((weight.T, bias) for weight, bias in layers)
    _set(net, drawn)

    def loss(x: Tensor, y: Tensor) -> Tensor:
        return nn.functional.mse_loss(net(x), y)

    return TorchLearner(net, loss, rule, learning_rate, need_clip=lambda p: weights_too or p.dim() == 1)


class CharRNN(nn.Module):
    """Logits of the next character at each position: `[B, T] -> [B, T, symbols]`."""

    def __init__(self, symbols: int, units: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(symbols, units)
        self.recurrence = nn.RNN(units, units, batch_first=True)
        self.readout = nn.Linear(units, symbols)

    def forward(self, characters: Tensor) -> Tensor:
        states, _ = self.recurrence(self.embedding(characters))
        logits: Tensor = self.readout(states)
        return logits


def char_rnn(weights: Mapping[str, Array], rule: AnyRule | None, learning_rate: float) -> TorchLearner:
    net = CharRNN(*weights["embedding"].shape)
    _set(net, weights.values())

    def loss(characters: Tensor) -> Tensor:
        logits, targets = net(characters[:, :-1]), characters[:, 1:]
        return nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())

    return TorchLearner(net, loss, rule, learning_rate)


def clip(gradient: Sequence[float], rule: AnyRule) -> list[float]:
    parameter = nn.Parameter(torch.zeros(len(gradient)))
    parameter.grad = torch.tensor(gradient)
    Clipper(rule).clip_([parameter])
    return list(parameter.grad.tolist())


def _set(net: nn.Module, drawn: Any) -> None:
    with torch.no_grad():
        for parameter, array in zip(net.parameters(), drawn, strict=True):
            parameter.copy_(torch.from_numpy(array))
