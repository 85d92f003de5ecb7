"""The clip of one optimizer: its rule, the backend that does it, and the variables in which its memory lies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import keras
import numpy as np

from gradclip.clipper import Clipper
from gradclip.errors import NothingClipped
from gradclip.keras.kept import LAST, SKIPS, STEP, TENSORS, Backend, KeptVariables
from gradclip.keras.last_step import LastStep, last_step_of
from gradclip.keras.refusals import refuse_backend, refuse_unread
from gradclip.rules.arguments import checked_flag
from gradclip.rules.rule import AnyRule, checked_rule

IN_THE_LOOP = (
    "while fit runs on JAX the numbers are in its compiled loop and not in the optimizer: let gradclip.keras.Log() log "
    "them, or call self.model.jax_state_sync() in a callback before it reads optimizer.last"
)


class Clipping:
    """Clips the gradients of one optimizer by `rule`."""

    def __init__(self, rule: AnyRule, on_nonfinite: str, tensors: bool) -> None:
        self.rule, self.on_nonfinite, self.tensors = checked_rule(rule), on_nonfinite, checked_flag(tensors, "tensors")
        refuse_unread(Clipper(self.rule, on_nonfinite=on_nonfinite))
        self._backend = backend_for(self.rule, on_nonfinite, tensors)
        self._kept: KeptVariables | None = None
        self._weights: list[Any] = []
        self._names: list[str] = []
        self._places: dict[int, int] = {}
        self._updated: list[int] = []

    @property
    def how(self) -> tuple[AnyRule, str, bool]:
        """All that the clip was asked for."""
        return self.rule, self.on_nonfinite, self.tensors

    def begin(self, optimizer: Any, variables: Sequence[Any]) -> None:
        """Make the variables of the clip, once for an optimizer."""
        if self._kept is None:
            self._weights = [each for each in variables if not getattr(each, "overwrite_with_gradient", False)]
            self._places = {id(variable): place for place, variable in enumerate(self._weights)}
            self._names = names_of(self._weights)
            shapes = self._backend.begin(self._names, self._values())
            self._kept = KeptVariables(optimizer, shapes)

    def meet(self, variables: Sequence[Any]) -> None:
        """Hear of which variables the next gradients are."""
        self._updated = [self._places[id(variable)] for variable in variables]

    def clipped(self, gradients: Sequence[Any]) -> list[Any]:
        """The gradients of the variables that were met, clipped."""
        given = dict(zip(self._updated, gradients, strict=True))
        found = self._backend.clip(given, self._values(), self._variables())
        return [found[place] for place in self._updated]

    def around(self, optimizer: Any, apply: Callable[[], None]) -> None:
        """Call `apply`, an update of `optimizer`, which leaves no trace where the rule leaves the step out."""
        self._backend.around(optimizer, apply, self._variables())

    def note(self) -> None:
        """Put the numbers of the last step into their variable, where a step did not wait for them."""
        for name, numbers in self._backend.unread().items():
            kept = self._variables()
            kept.take({name: keras.ops.convert_to_tensor(np.asarray(numbers), dtype=kept[name].dtype)})

    def last(self) -> LastStep:
        """What the last step did, read from the device."""
        if self._kept is not None and self._kept.elsewhere:
            raise RuntimeError(IN_THE_LOOP)
        self.note()
        if self._kept is None or (steps := int(self._kept[STEP])) == 0:
            raise NothingClipped("nothing was clipped yet: `last` exists after the first step with gradients")
        numbers = keras.ops.convert_to_numpy(self._kept[LAST])
        last = last_step_of(numbers.tolist(), float(np.finfo(numbers.dtype).max), steps, int(self._kept[SKIPS]))
        return replace(last, tensors=self._tensors()) if self.tensors else last

    def _tensors(self) -> dict[str, float]:
        norms = keras.ops.convert_to_numpy(self._variables()[TENSORS])
        return dict(zip(self._names, norms.tolist(), strict=True))

    def _variables(self) -> KeptVariables:
        assert self._kept is not None  # an optimizer is built before it makes an update
        return self._kept

    def _values(self) -> list[Any]:
        return [variable.value for variable in self._weights]


def backend_for(rule: AnyRule, on_nonfinite: str, tensors: bool) -> Backend:
    """The clip in the arrays of the backend that Keras runs on; the other framework is not imported."""
    refuse_backend()
    if keras.config.backend() == "jax":
        from gradclip.keras.jax_step import JaxStep

        return JaxStep(rule, on_nonfinite, tensors)
    from gradclip.keras.torch_step import TorchStep

    return TorchStep(rule, on_nonfinite, tensors)


def names_of(variables: Sequence[Any]) -> list[str]:
    """The paths of the variables; of several with one path the later ones are numbered."""
    seen: Counter[str] = Counter()
    names = []
    for path in (variable.path for variable in variables):
        seen[path] += 1
        names.append(path if seen[path] == 1 else f"{path}#{seen[path]}")
    return names
