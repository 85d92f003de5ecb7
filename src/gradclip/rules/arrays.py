"""The array functions that rules and decisions are written in, and those of plain floats.

The same lines then run on floats, on arrays on the host, on a device, and inside a graph that is only being built.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

Array = Any
"""An array [S] of some framework, or a plain float where there is one segment on the host."""


class ArrayFunctions(Protocol):
    """The functions of one kind of array. Conditions are arrays of bool of that kind, or bools of the host."""

    def where(self, condition: Array, then: Array, other: Array) -> Array: ...
    def maximum(self, a: Array, b: Array) -> Array: ...
    def sqrt(self, a: Array) -> Array: ...
    def power(self, a: Array, exponent: float) -> Array: ...
    def tanh(self, a: Array) -> Array: ...
    def nonfinite(self, a: Array) -> Array: ...
    def either(self, a: Array, b: Array) -> Array: ...
    def any(self, a: Array) -> Array: ...
    def array(self, values: Sequence[float], like: Array) -> Array: ...
    def indices(self, values: Sequence[int], like: Array) -> Array: ...
    def take(self, a: Array, index: Array) -> Array: ...
    def combine(self, a: Array, index: Array, segments: int, how: str) -> Array: ...


class Scalars:
    """`ArrayFunctions` for plain floats: one segment on the host needs no arrays."""

    sqrt = staticmethod(math.sqrt)
    tanh = staticmethod(math.tanh)
    any = staticmethod(bool)
    maximum = staticmethod(max)

    @staticmethod
    def where(condition: bool, then: Any, other: Any) -> Any:
        return then if condition else other

    @staticmethod
    def nonfinite(a: float) -> bool:
        return not math.isfinite(a)

    @staticmethod
    def either(a: bool, b: bool) -> bool:
        return a or b

    @staticmethod
    def power(a: float, exponent: float) -> float:
        try:
            return float(a**exponent)
        except (OverflowError, ZeroDivisionError):
            return math.inf

    @staticmethod
    def array(values: Sequence[float], like: float) -> float:
        (value,) = values
        return float(value)

    @staticmethod
    def indices(values: Sequence[int], like: float) -> None:
        return None

    @staticmethod
    def take(a: float, index: None) -> float:
        return a

    @staticmethod
    def combine(a: float, index: None, segments: int, how: str) -> float:
        return a


SCALARS = Scalars()
