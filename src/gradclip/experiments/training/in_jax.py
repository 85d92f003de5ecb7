"""The nets of the experiments in JAX, clipped by `gradclip.optax.clip` in front of the optimizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradclip.experiments.training.framework import Array
from gradclip.optax import clip as clip_by
from gradclip.rules.rule import AnyRule

name = "jax"


def version() -> str:
    return str(jax.__version__)


def alone() -> AbstractContextManager[None]:
    return nullcontext()  # XLA settles its number of threads itself


class JaxLearner:
    """Weights in a dict, plain SGD after the clip, and one compiled step."""

    def __init__(
        self, weights: Mapping[str, Array], loss: Callable[..., Any], clip: Any, learning_rate: float, clips: bool
    ) -> None:
        self.engine = "jax" if clips else None
        self._loss, self._descent = jax.jit(loss), optax.sgd(learning_rate)
        self._clip = clip
        self._weights = {name: jnp.asarray(array) for name, array in weights.items()}
        self._state = self._clip.init(self._weights), self._descent.init(self._weights)
        self._step = jax.jit(self._compiled)

    def _compiled(self, weights: Any, state: Any, *batch: Any) -> Any:
        loss, before = jax.value_and_grad(self._loss)(weights, *batch)
        after, clipped = self._clip.update(before, state[0], weights)
        updates, descended = self._descent.update(after, state[1], weights)
        return optax.apply_updates(weights, updates), (clipped, descended), loss, before, after

    def step(self, *batch: Array) -> tuple[float, list[Array], list[Array]]:
        self._weights, self._state, loss, before, after = self._step(self._weights, self._state, *batch)
        return float(loss), _arrays(before), _arrays(after)

    def loss(self, *batch: Array) -> float:
        return float(self._loss(self._weights, *batch))


def exploding_net(
    layers: Sequence[tuple[Array, Array]], rule: AnyRule, weights_too: bool, learning_rate: float
) -> JaxLearner:
    weights = {f"{kind}{i}": array for i, pair in enumerate(layers) for kind, array in zip("wb", pair, strict=True)}

    def loss(weights: Any, x: Any, y: Any) -> Any:
        for i in range(len(layers)):
            x = x @ weights[f"w{i}"] + weights[f"b{i}"]
        return jnp.mean(jnp.square(x - y))

    clip = clip_by(rule, need_clip=lambda name: weights_too or name.startswith("b"))
    return JaxLearner(weights, loss, clip, learning_rate, clips=True)


def char_rnn(weights: Mapping[str, Array], rule: AnyRule | None, learning_rate: float) -> JaxLearner:
    def loss(w: Any, characters: Any) -> Any:
        def advance(state: Any, x: Any) -> Any:
            state = jnp.tanh(x @ w["weight_ih"].T + w["bias_ih"] + state @ w["weight_hh"].T + w["bias_hh"])
            return state, state

        inputs = w["embedding"][characters[:, :-1]].swapaxes(0, 1)
        _, states = jax.lax.scan(advance, jnp.zeros_like(inputs[0]), inputs)
        logits = states.swapaxes(0, 1) @ w["readout_weight"].T + w["readout_bias"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, characters[:, 1:]).mean()

    clip = optax.identity() if rule is None else clip_by(rule)
    return JaxLearner(weights, loss, clip, learning_rate, clips=rule is not None)


def clip(gradient: Sequence[float], rule: AnyRule) -> list[float]:
    transformation = clip_by(rule)
    given = jnp.asarray(gradient, dtype=jnp.float32)
    clipped, _ = transformation.update(given, transformation.init(given))
    return list(np.asarray(clipped).tolist())


def _arrays(tree: Mapping[str, Any]) -> list[Array]:
    return [np.asarray(array) for array in tree.values()]
