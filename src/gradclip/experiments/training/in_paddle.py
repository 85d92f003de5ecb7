"""The nets of the experiments in PaddlePaddle, clipped by `gradclip.paddle.Clip` given to the optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from typing import Any

import numpy as np
import paddle
from paddle import nn

from gradclip.experiments.training.framework import Array
from gradclip.paddle import Clip, Clipper
from gradclip.rules.rule import AnyRule

name = "paddle"


def version() -> str:
    return str(paddle.__version__)


def alone() -> AbstractContextManager[None]:
    return nullcontext()  # Paddle's number of threads is settled when it starts


class PaddleLearner:
    """A layer, plain SGD, and the clip that it was given."""

    def __init__(self, net: Any, loss: Callable[..., Any], rule: AnyRule | None, learning_rate: float) -> None:
        self._net, self._loss = net, loss
        self._clip = None if rule is None else Clip(rule)
        self._optimizer = paddle.optimizer.SGD(learning_rate, parameters=net.parameters(), grad_clip=self._clip)

    @property
    def engine(self) -> str | None:
        return None if self._clip is None else self._clip.last.engine

    def step(self, *batch: Array) -> tuple[float, list[Array], list[Array]]:
        self._optimizer.clear_grad()
        loss = self._loss(*map(paddle.to_tensor, batch))
        loss.backward()
        before = self._gradients()
        self._optimizer.step()
        return float(loss), before, self._gradients()

    def loss(self, *batch: Array) -> float:
        with paddle.no_grad():
            return float(self._loss(*map(paddle.to_tensor, batch)))

    def _gradients(self) -> list[Array]:
        return [p.grad.numpy() for p in self._net.parameters() if p.grad is not None]


def exploding_net(
    layers: Sequence[tuple[Array, Array]], rule: AnyRule, weights_too: bool, learning_rate: float
) -> PaddleLearner:
    weight_attr = paddle.ParamAttr(need_clip=weights_too)
    net = nn.Sequential(*(nn.Linear(*weight.shape, weight_attr=weight_attr) for weight, _ in layers))
    _set(net, chain.from_iterable(layers))
    return PaddleLearner(net, lambda x, y: nn.functional.mse_loss(net(x), y), rule, learning_rate)


class PaddleCharRNN(nn.Layer):  # type: ignore[misc]  # Paddle is not checked
    """Logits of the next character at each position: `[B, T] -> [B, T, symbols]`."""

    def __init__(self, symbols: int, units: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(symbols, units)
        self.recurrence = nn.SimpleRNN(units, units)
        self.readout = nn.Linear(units, symbols)

    def forward(self, characters: Any) -> Any:
        states, _ = self.recurrence(self.embedding(characters))
        return self.readout(states)


def char_rnn(weights: Mapping[str, Array], rule: AnyRule | None, learning_rate: float) -> PaddleLearner:
    net = PaddleCharRNN(*weights["embedding"].shape)
    _set(net, (array.T if name == "readout_weight" else array for name, array in weights.items()))

    def loss(characters: Any) -> Any:
        logits, targets = net(characters[:, :-1]), characters[:, 1:]
        return nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())

    return PaddleLearner(net, loss, rule, learning_rate)


def clip(gradient: Sequence[float], rule: AnyRule) -> list[float]:
    parameter = paddle.create_parameter([len(gradient)], "float32")
    parameter.grad = paddle.to_tensor(np.array(gradient, dtype=np.float32))
    Clipper(rule).clip_([parameter])
    return list(parameter.grad.tolist())


def _set(net: Any, drawn: Iterable[Array]) -> None:
    for parameter, array in zip(net.parameters(), drawn, strict=True):
        parameter.set_value(array)
