"""What an experiment needs of a framework: two nets that learn, each clipped through that framework's own door.

Points, texts, first weights and batches are drawn with NumPy, so every framework starts from the same numbers.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np

from gradclip.rules.rule import AnyRule

Array = np.ndarray[Any, np.dtype[Any]]


class Learner(Protocol):
    """A net with its optimizer, which is plain gradient descent."""

    @property
    def engine(self) -> str | None:
        """The engine that clipped; None where nothing is clipped."""

    def step(self, *batch: Array) -> tuple[float, list[Array], list[Array]]:
        """One step on a batch: the loss before it, and the gradients before and after clipping."""

    def loss(self, *batch: Array) -> float:
        """The loss on a batch, without learning."""


class Framework(Protocol):
    """A module `gradclip.experiments.training.in_<name>`."""

    name: str

    def version(self) -> str: ...

    def alone(self) -> AbstractContextManager[None]:
        """A context in which small nets run on one thread, which is enough for them and adds in one order."""

    def exploding_net(
        self, layers: Sequence[tuple[Array, Array]], rule: AnyRule, weights_too: bool, learning_rate: float
    ) -> Learner:
        """Linear layers without activation, from weights [in, out] and biases [out]; the loss is the squared error of
        the batch (x, y). Where `weights_too` is false only the biases are clipped."""

    def char_rnn(self, weights: Mapping[str, Array], rule: AnyRule | None, learning_rate: float) -> Learner:
        """An embedding, a tanh recurrence and a readout; the loss is the cross entropy of characters [B, T] in nats."""

    def clip(self, gradient: Sequence[float], rule: AnyRule) -> list[float]:
        """One gradient, clipped."""


def framework_called(name: str) -> Framework:
    """The framework with this name, imported now."""
    module: Framework = importlib.import_module(f"gradclip.experiments.training.in_{name}")
    return module
