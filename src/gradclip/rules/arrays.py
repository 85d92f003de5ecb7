"""The array functions that rules and decisions are written in, and those of plain floats.

The same lines then run on floats, on arrays on the host, on a device, and inside a graph that is only being built.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any, NoReturn, Protocol, TypeAlias

Operand: TypeAlias = Any
"""An array of the same kind, or a number: what an operator or a function takes beside it. Checkers know no kinds."""


class Array(Protocol):
    """An array [S] or [n, S] of some framework, or a plain float where there is one segment on the host.

    Conditions are arrays, too: of bool, or a plain bool.
    """

    def __add__(self, other: Operand, /) -> Array: ...
    def __radd__(self, other: Operand, /) -> Array: ...
    def __sub__(self, other: Operand, /) -> Array: ...
    def __rsub__(self, other: Operand, /) -> Array: ...
    def __mul__(self, other: Operand, /) -> Array: ...
    def __rmul__(self, other: Operand, /) -> Array: ...
    def __truediv__(self, other: Operand, /) -> Array: ...
    def __rtruediv__(self, other: Operand, /) -> Array: ...
    def __neg__(self) -> Array: ...
    def __lt__(self, other: Operand, /) -> Array: ...
    def __le__(self, other: Operand, /) -> Array: ...
    def __gt__(self, other: Operand, /) -> Array: ...
    def __ge__(self, other: Operand, /) -> Array: ...


class ArrayFunctions(Protocol):
    """The functions of one kind of array; what they are given is of that kind, too."""

    def where(self, condition: Operand, then: Operand, other: Operand) -> Array: ...
    def maximum(self, a: Operand, b: Operand) -> Array: ...
    def sqrt(self, a: Operand) -> Array: ...
    def power(self, a: Operand, exponent: float) -> Array: ...
    def tanh(self, a: Operand) -> Array: ...
    def nonfinite(self, a: Operand) -> Array: ...
    def either(self, a: Operand, b: Operand) -> Array: ...
    def any(self, a: Operand) -> Array: ...
    def sort(self, a: Operand) -> Array:
        """[n, S], each column from small to large."""

    def sum(self, a: Operand) -> Array:
        """[S] from [n, S]."""

    def column(self, n: int, like: Operand) -> Array:
        """The numbers 0 to n - 1 as [n, 1]."""

    def array(self, values: Sequence[Any], like: Operand) -> Array: ...
    def indices(self, values: Sequence[int], like: Operand) -> Operand:
        """Places for `take` and `combine`."""

    def take(self, a: Operand, index: Operand) -> Array:
        """The places `index` of the last axis."""

    def combine(self, a: Operand, index: Operand, segments: int, how: str) -> Array: ...


class Scalars:
    """`ArrayFunctions` for plain floats: one segment on the host needs no arrays. There are none of [n, S]."""

    sqrt = staticmethod(math.sqrt)
    tanh = staticmethod(math.tanh)
    any = staticmethod(bool)
    maximum = staticmethod(max)
    either = staticmethod(operator.or_)

    @staticmethod
    def where(condition: bool, then: float, other: float) -> float:
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
    def sort(a: float) -> NoReturn:
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
