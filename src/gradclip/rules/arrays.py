"""The array functions that rules and decisions are written in, and those of plain floats.

The same lines then run on floats, on arrays on the host, on a device, and inside a graph that is only being built.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any, NoReturn, Protocol

Array = Any
"""An array [S] or [n, S] of some framework, or a plain float where there is one segment on the host."""


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
    def sort(self, a: Array) -> Array:
        """[n, S], each column from small to large."""

    def sum(self, a: Array) -> Array:
        """[S] from [n, S]."""

    def column(self, n: int, like: Array) -> Array:
        """The numbers 0 to n - 1 as [n, 1]."""

    def array(self, values: Sequence[Any], like: Array) -> Array: ...
    def indices(self, values: Sequence[int], like: Array) -> Array: ...
    def take(self, a: Array, index: Array) -> Array:
        """The places `index` of the last axis."""

    def combine(self, a: Array, index: Array, segments: int, how: str) -> Array: ...


class Scalars:
    """`ArrayFunctions` for plain floats: one segment on the host needs no arrays. There are none of [n, S]."""

    sqrt = staticmethod(math.sqrt)
    tanh = staticmethod(math.tanh)
    any = staticmethod(bool)
    maximum = staticmethod(max)
    either = staticmethod(operator.or_)

    @staticmethod
    def where(condition: bool, then: Any, other: Any) -> Any:
        return then if condition else other

    @staticmethod
    def nonfinite(a: float) -> bool:
        return not math.isfinite(a)

    @staticmethod
    def power(a: float, exponent: float) -> float:
        try:
            return float(a**exponent)
        except (OverflowError, ZeroDivisionError):
            return math.inf

    @staticmethod
    def sort(a: Any) -> NoReturn:
        raise TypeError("plain floats have no rows to remember: measure in arrays")

    sum = sort

    @staticmethod
    def column(n: int, like: float) -> NoReturn:
        raise TypeError("plain floats have no rows to remember: measure in arrays")

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


SCALARS: ArrayFunctions = Scalars()
