"""`clip`: an optimizer of Keras that clips by a rule before each of its updates."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import cache, partial
from typing import Any

import keras

from gradclip.errors import GradclipWarning
from gradclip.keras.clipping import Clipping
from gradclip.keras.last_step import LastStep
from gradclip.keras.refusals import checked_optimizer, plain_rule, refuse_own_clip
from gradclip.rules.codec import from_dict
from gradclip.rules.rule import AnyRule
from gradclip.step.respond import user_level

CONFIG = "gradclip"
"""In the config of a clipped optimizer: the rule, the policy, and of which class the optimizer is."""


OTHER_FILE = (
    "the optimizer in this file was not clipped by {!r}, by no rule at all, or with another tensors=, so Keras takes "
    "nothing of it, neither its moments nor what the rule remembers; load the weights into a model that is clipped as "
    "the one that wrote them"
)


class ClippedOptimizer(keras.optimizers.Optimizer):
    """What `clip` makes of an optimizer: one of its own class, and of this one, that clips before each update.

    >>> optimizer = gradclip.keras.clip(keras.optimizers.Adam(1e-3), gradclip.ClipGradByNorm(1.0))
    >>> isinstance(optimizer, ClippedOptimizer), isinstance(optimizer, keras.optimizers.Adam)
    (True, True)
    """

    _clipping: Clipping

    @property
    def last(self) -> LastStep:
        """What the last step did; reading it waits for the device. `NothingClipped` before the first step."""
        return self._clipping.last()

    def build(self, variables: Sequence[Any]) -> None:
        super().build(variables)
        self._clipping.begin(self, variables)

    def apply(self, grads: Sequence[Any], trainable_variables: Sequence[Any] | None = None) -> None:
        refuse_own_clip(self)
        if not self.built and trainable_variables is not None:
            trainable_variables = list(trainable_variables)
            with keras.name_scope(self.name):
                self.build(trainable_variables)
        update = partial(super().apply, grads, trainable_variables)
        self._clipping.around(self, update) if self.built else update()

    def _backend_apply_gradients(self, grads: Sequence[Any], trainable_variables: Sequence[Any]) -> None:
        self._clipping.meet(trainable_variables)
        super()._backend_apply_gradients(grads, trainable_variables)

    def _clip_gradients(self, grads: Sequence[Any]) -> list[Any]:
        return self._clipping.clipped(grads)

    def _backend_reset_gradient_accumulators(self) -> None:
        """As Keras does, but by zeros: on PyTorch it multiplies by 0, and a NaN would stay for good."""
        for total in self._accumulated_gradients:
            if total is not None:
                total.assign(keras.ops.zeros_like(total.value))

    def save_own_variables(self, store: Any) -> None:
        self._clipping.note()
        super().save_own_variables(store)

    def load_own_variables(self, store: Any) -> None:
        """As Keras does, which takes all of an optimizer or nothing, and says of which rule the file is not."""
        if self.built and len(store.keys()) != len(self.variables):
            warnings.warn(OTHER_FILE.format(self._clipping.rule), GradclipWarning, stacklevel=user_level())
        super().load_own_variables(store)

    def get_config(self) -> dict[str, Any]:
        """The config of the optimizer, and how it is clipped."""
        clipping = self._clipping
        inner = keras.saving.serialize_keras_object(unclipped(self))
        about = {"rule": plain_rule(clipping.rule), "on_nonfinite": clipping.on_nonfinite, "tensors": clipping.tensors}
        return {**inner.pop("config"), CONFIG: {**about, "optimizer": inner}}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], custom_objects: Any = None) -> Any:
        """The clipped optimizer that had this config, whatever its class was."""
        about = config[CONFIG]
        inner = {name: value for name, value in config.items() if name != CONFIG}
        optimizer = keras.saving.deserialize_keras_object({**about["optimizer"], "config": inner}, custom_objects)
        rule, tensors = from_dict(about["rule"]), about.get("tensors", False)
        return clip(optimizer, rule, on_nonfinite=about["on_nonfinite"], tensors=tensors)


def registered(kind: type) -> type:
    """`kind` under the one name by which Keras writes and finds clipped optimizers; the config says of which class."""
    register = keras.saving.register_keras_serializable("gradclip", ClippedOptimizer.__name__)
    found: type = register(kind)
    return found


@cache
def clipped_class(kind: type) -> type:
    """The class of clipped optimizers of this `kind`."""
    about = {"__module__": __name__, "__doc__": kind.__doc__}
    return registered(type(f"Clipped{kind.__name__}", (ClippedOptimizer, kind), about))


def unclipped(optimizer: ClippedOptimizer) -> Any:
    """The same optimizer seen as one of its own class, for Keras to write.

    Where Keras has made one for a backend of its own accord, it is written as the public one, for any backend to read.
    """
    kind = type(optimizer).__bases__[1]
    of_backend = kind.__module__.startswith("keras.src.backend.")
    twin: Any = object.__new__(getattr(keras.optimizers, kind.__name__) if of_backend else kind)
    vars(twin).update(vars(optimizer))
    return twin


registered(ClippedOptimizer)


def clip(optimizer: Any, rule: AnyRule, *, on_nonfinite: str = "keep", tensors: bool = False) -> Any:
    """Make `optimizer` clip its gradients by `rule` before each of its updates, and return it.

    With m the measure of a segment and t its threshold, `out = phi(m / t) * g`; for `ClipGradByGlobalNorm(c)` that is
    `g * min(1, c / ||g||)`, the norm taken over all gradients that the optimizer has. Clipped is what the update is
    made of: gradients that a loss scale was divided out of, and with `gradient_accumulation_steps=` their mean, once
    for each real step. Weight decay and the moving average of the weights come after it. The optimizer stays of its
    class, with its learning rate and schedule; what the rule remembers lies in its variables, so a file of Keras has
    it, and `keras.models.load_model` gives the clipped optimizer back where `gradclip.keras` is imported.

    Rules by name match variables by their path, as "sequential/dense/kernel": `gradclip.Rules({"*/bias": None, ...})`.
    `on_nonfinite` is "keep", "skip", "zero" or "raise", see `gradclip.clipper.Clipper`; a step that is skipped leaves
    weights, moments and the count of iterations as they are. On JAX nothing can raise. What the last step did is
    `optimizer.last`, a `LastStep`; with `tensors=True` it has the norm of each gradient, for `Log(layers=5)`.

    Raises `ValueError` for an optimizer with `clipnorm=`, `clipvalue=` or `global_clipnorm=`, one that wraps others or
    clips otherwise already, for rules that read the loss or moments, and on backends other than torch and jax;
    `TypeError` for what is no optimizer of Keras or no rule. Source: that of the rule.

    >>> optimizer = gradclip.keras.clip(keras.optimizers.SGD(1.0), gradclip.ClipGradByGlobalNorm(1.0))
    >>> weight = keras.Variable([0.0, 0.0])
    >>> optimizer.apply([keras.ops.convert_to_tensor([3.0, 4.0])], [weight])
    >>> weight.numpy(), optimizer.last.norm_before
    (array([-0.6, -0.8], dtype=float32), 5.0)
    """
    clipping = Clipping(rule, on_nonfinite, tensors)
    if isinstance(optimizer, ClippedOptimizer):
        before = optimizer._clipping
        if before.how == clipping.how:
            return optimizer
        raise ValueError(
            "this optimizer is clipped already ({!r}, on_nonfinite={!r}, tensors={!r}): write one rule, a >> b clips "
            "by a and then by b, or clip a new optimizer".format(*before.how)
        )
    optimizer = checked_optimizer(optimizer)
    kind: type = type(optimizer)
    optimizer.__class__ = clipped_class(kind)
    optimizer._clipping = clipping
    if optimizer.built:
        clipping.begin(optimizer, optimizer._trainable_variables)
    return optimizer
