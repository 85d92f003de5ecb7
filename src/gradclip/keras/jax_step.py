"""A step on JAX: `gradclip.optax.clip` with its state in variables, in a compiled training step and outside."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gradclip.clipper import Clipper
from gradclip.keras.kept import LAST, SKIPS, STEP, TENSORS, KeptVariables, Shapes, Values, remembered
from gradclip.optax.last import nothing
from gradclip.optax.state import ClipState, float_type
from gradclip.optax.transform import clip
from gradclip.rules.rule import AnyRule


class JaxStep:
    """Clips the gradients of one optimizer on JAX."""

    def __init__(self, rule: AnyRule, on_nonfinite: str, tensors: bool) -> None:
        self._transform = clip(rule, inner=optax.identity(), on_nonfinite=on_nonfinite, tensors=tensors)
        self._can_skip = Clipper(rule, on_nonfinite=on_nonfinite).can_skip
        self._names: list[str] = []

    def begin(self, names: Sequence[str], weights: Sequence[Any]) -> Shapes:
        self._names = list(names)
        seen = jax.eval_shape(lambda tree: self._values_of(self._transform.init(tree)), self._tree(weights))
        return {name: (array.shape, str(array.dtype)) for name, array in seen.items()}

    def clip(self, gradients: Mapping[int, Any], weights: Sequence[Any], kept: KeptVariables) -> Mapping[int, Any]:
        """A weight without a gradient has zeros, as one that the loss does not reach has them in JAX."""
        every = [gradients[i] if i in gradients else jnp.zeros_like(weight) for i, weight in enumerate(weights)]
        clipped, state = self._transform.update(self._tree(every), self._state_of(kept), self._tree(weights))
        kept.take(self._values_of(state))
        return {i: clipped[self._names[i]] for i in gradients}

    def around(self, optimizer: Any, apply: Callable[[], None], kept: KeptVariables) -> None:
        """Nothing is read while a step is compiled, so where one is left out the values from before are put back."""
        if not self._can_skip:
            return apply()
        touched = [(variable, variable.value) for variable in touched_by(optimizer, kept)]
        steps, iterations = kept[STEP], optimizer._iterations
        first = iterations.value + 1 - (optimizer.gradient_accumulation_steps or 1)
        apply()
        skipped = (kept[SKIPS] > 0) & (kept[STEP] > steps)
        for variable, before in touched:
            variable.assign(jnp.where(skipped, before, variable.value))
        iterations.assign(jnp.where(skipped, first, iterations.value))

    def unread(self) -> Mapping[str, Sequence[float]]:
        return {}

    def _tree(self, arrays: Sequence[Any]) -> OrderedDict[str, Any]:
        """Arrays under the names of the weights, in their order, which JAX leaves to an `OrderedDict`."""
        return OrderedDict(zip(self._names, arrays, strict=True))

    def _values_of(self, state: ClipState) -> Values:
        last = jnp.stack([jnp.asarray(number).astype(float_type()) for number in state.last])
        kept = remembered(state.thresholds, state.carried, self._names)
        if state.tensors:
            kept[TENSORS] = jnp.stack([state.tensors[name] for name in self._names])
        return {STEP: state.step, SKIPS: state.consecutive_skips, LAST: last, **kept}

    def _state_of(self, kept: KeptVariables) -> ClipState:
        last, carried = nothing(float_type()), kept.carried(self._names)
        return ClipState(kept[STEP], kept.memories(), last, optax.EmptyState(), carried, kept[SKIPS])


def touched_by(optimizer: Any, kept: KeptVariables) -> list[Any]:
    """The variables that an update changes, and that a step which is left out does not.

    Not what the clip keeps, nor the sums of gradients, which begin anew, nor a weight that its gradient overwrites.
    """
    sums = getattr(optimizer, "_accumulated_gradients", ())
    own = [variable for variable in optimizer.variables if not kept.has(variable)]
    own = [variable for variable in own if not any(variable is each for each in (*sums, optimizer._iterations))]
    weights = [each for each in optimizer._trainable_variables if not getattr(each, "overwrite_with_gradient", False)]
    return [*own, *weights]
