"""What a rule keeps from step to step, in variables of the optimizer: saved, loaded and compiled as the others are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

STEP, SKIPS, LAST = "step", "skips", "last"
"""How many steps were clipped, how many were left out in a row, and what the last one did."""

TENSORS = "tensors"
"""The norm of each gradient in the last step, where that is asked for."""

MEMORY, CARRIED = "memory ", "carried "
"""In front of the names of the memory of a threshold, and of what is carried over of a gradient."""

Values: TypeAlias = dict[str, Any]
"""Arrays of the backend by name: those, the memory of each threshold, and what is carried over."""

Shapes: TypeAlias = Mapping[str, tuple[tuple[int, ...], str]]
"""The shape and the type of each of `Values`."""

Memories: TypeAlias = dict[str, dict[str, Any]]
"""The arrays that each threshold remembers, by the key of the threshold."""


class KeptVariables:
    """The variables of one optimizer that `Values` are in, in an order that the names of layers do not change."""

    def __init__(self, optimizer: Any, shapes: Shapes) -> None:
        self._each = {
            name: optimizer.add_variable(shape=shape, dtype=dtype, name=f"clip_{name}".replace(" ", "_"))
            for name, (shape, dtype) in sorted(shapes.items())
        }

    def __getitem__(self, name: str) -> Any:
        return self._each[name].value

    def has(self, variable: Any) -> bool:
        """Whether this is one of the variables."""
        return any(variable is kept for kept in self._each.values())

    @property
    def elsewhere(self) -> bool:
        """Whether Keras has taken the values out of the variables, as while `fit` runs on JAX."""
        return self._each[STEP]._value is None

    def memories(self) -> Memories:
        """What each threshold remembers."""
        found: Memories = {}
        for place, variable in self._each.items():
            if place.startswith(MEMORY):
                key, _, name = place.removeprefix(MEMORY).rpartition(" ")
                found.setdefault(key, {})[name] = variable.value
        return found

    def carried(self, names: Sequence[str]) -> dict[str, Any]:
        """What is carried over of the gradients of these names."""
        places = {f"{CARRIED}{index}": name for index, name in enumerate(names)}
        return {name: self[place] for place, name in places.items() if place in self._each}

    def take(self, values: Mapping[str, Any]) -> None:
        """Keep these instead."""
        for name, value in values.items():
            self._each[name].assign(value)


def remembered(memories: Memories, carried: Mapping[str, Any], names: Sequence[str]) -> Values:
    """What thresholds remember and what is carried over of the gradients of these names, as it is kept."""
    memory = {f"{MEMORY}{key} {name}": value for key, arrays in memories.items() for name, value in arrays.items()}
    return memory | {f"{CARRIED}{names.index(name)}": value for name, value in carried.items()}


class Backend(Protocol):
    """Clips the gradients of one optimizer in the arrays of one backend."""

    def begin(self, names: Sequence[str], weights: Sequence[Any]) -> Shapes:
        """Be for the gradients of these `weights`, which have these names; what is kept begins as zeros."""

    def clip(self, gradients: Mapping[int, Any], weights: Sequence[Any], kept: KeptVariables) -> Mapping[int, Any]:
        """The gradients clipped, each by the number of its weight, when the variables have what is kept of the step."""

    def around(self, optimizer: Any, apply: Callable[[], None], kept: KeptVariables) -> None:
        """Call `apply`, an update of `optimizer`, so that it changes nothing where the rule leaves the step out."""

    def unread(self) -> Mapping[str, Sequence[float]]:
        """The numbers of the last step, by the variable that they belong in, so far as they are not there yet."""
