"""What an engine is: the gradients of a step, measured and scaled in place.

An engine knows HOW: where the elements lie and how to read them fast. WHAT to clip is in `rules`, and the coefficient
is made in `decide`, so two engines can differ in speed and in nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from gradclip.rules.arrays import Array, ArrayFunctions
from gradclip.rules.norm import Norm
from gradclip.rules.response import Response
from gradclip.rules.scope import Scope


class Measure(NamedTuple):
    """What an engine read, for each of S segments: the norm is `scale * total^(1/p)`, or `scale * total` for a maximum.

    `scale` has the unit of the gradient; engines move it away from 1 where the plain power sum would leave the range
    of its type, and doors where the gradients carry a loss scale.
    """

    total: Array
    nonfinite: Array
    xp: ArrayFunctions
    scale: Array = 1.0


def _all_count(array: Array) -> Array:
    return array


class Across(NamedTuple):
    """How measures are summed up over the processes (or devices) that share the gradients of a step.

    `shards` and `tensors` take an array and "sum" or "max". `shards` [T] is given one number for each tensor and adds
    what others measured of the same tensor; a tensor of which all have a copy is left as it is. `tensors` [1] is given
    what all tensors here sum up to, and adds the tensors that only others have; `counted` [T] puts 0 for those here
    that others count. All processes make the same calls in the same order.
    """

    shards: Callable[[Array, str], Array]
    tensors: Callable[[Array, str], Array]
    counted: Callable[[Array], Array] = _all_count


class Slot:
    """A place for the gradient of a framework whose arrays cannot be written: engines put a new one in."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


NO_ORDER = "it is complex, and complex numbers have no order: clip it by a norm"


class UnsupportedGradient(TypeError):
    """A gradient that no engine can clip; `index` is its place in the list."""

    def __init__(self, index: int, reason: str) -> None:
        super().__init__(reason)
        self.index = index
        self.reason = reason


class Engine(Protocol):
    """Gather, measure, apply. The batch is the engine's own view of the tensors and lives for one step.

    An engine may also have `clamp_(batch, low, high) -> Measure`: `measure` at scope `Element` and `map_` with the
    response `Rescale` in one read; and with it `xp`, the array functions that its bounds are made with.
    """

    name: str
    waits: bool
    """Whether reading a number of this engine waits for a device; if so, nothing but `to_host` may read one."""

    def owns(self, tensor: Any) -> bool:
        """Whether this engine can read and write `tensor`."""

    def gather(self, tensors: list[Any]) -> Any:
        """The batch of `tensors`; raises `UnsupportedGradient` and writes nothing."""

    def repeated(self, batch: Any) -> set[int]:
        """The places of tensors whose memory an earlier one of the batch has."""

    def refuse_unordered(self, batch: Any) -> None:
        """Raise `UnsupportedGradient` for a complex tensor, whose elements have no sign and no bound."""

    def measure(self, batch: Any, scope: Scope, norm: Norm) -> Measure:
        """One read: the measure of each segment of `scope` (`Element`: see `scope.Element`)."""

    def apply_(self, batch: Any, scope: Scope, coefficient: Array, zeroes: bool = True) -> None:
        """Multiply each segment by its coefficient, in place; where it is 1 nothing is written, where 0, zeros are.

        `zeroes` is false where no coefficient can be 0. An engine that waits may multiply by 1.
        """

    def map_(self, batch: Any, response: Response, low: float, high: float) -> None:
        """Replace each finite element x by `phi(|x| / t) x`, with t = `high` for x > 0 and -`low` for x < 0."""

    def purge_(self, batch: Any) -> None:
        """Replace each non-finite element by zero."""

    def shapes(self, batch: Any) -> list[tuple[int, ...]]:
        """The shapes of the tensors as measured: of a sparse one, that of its values."""

    def holds_float64(self, batch: Any) -> bool:
        """Whether any tensor has elements (or parts of complex ones) of 64 bits."""

    def to_host(self, array: Array) -> list[float]:
        """The numbers of `array`; on an accelerator this waits for the device."""


def repeats(places: Sequence[tuple[int, int]]) -> set[int]:
    """The indices of the (address, elements) that occurred before; empty tensors have no place to share."""
    seen: set[tuple[int, int]] = set()
    again = set()
    for index, place in enumerate(places):
        if place[1] and place in seen:
            again.add(index)
        seen.add(place)
    return again
