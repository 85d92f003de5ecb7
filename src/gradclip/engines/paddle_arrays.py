"""Arrays of Paddle for decisions: float64 and bool, on a device or in a graph that is only being built.

In a static graph of Paddle `x * 0.1` multiplies a float64 x by the float32 nearest to 0.1, and in every mode `x == y`
holds for numbers that differ by less than 1e-15. Here each number that meets an array becomes a float64 constant first,
and only equal numbers are equal.
"""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import paddle

from gradclip.engines.paddle_legacy import OPERATIONS as F
from gradclip.engines.paddle_legacy import PaddleTensor
from gradclip.rules.arrays import Operand

WIDE = "float64"
LARGEST_FLOAT = sys.float_info.max
CHECK = "FLAGS_check_nan_inf"


def may_be_infinite() -> bool:
    """Whether a program may make an infinity: Paddle ends it at the first one under `FLAGS_check_nan_inf`."""
    return not paddle.get_flags(CHECK)[CHECK]


def _operator(function: Callable[[Any, Any], Any]) -> Callable[[Wide, Operand], Wide]:
    return lambda self, other: Wide(function(self.value, plain(other)))


def _equal(a: PaddleTensor, b: PaddleTensor) -> PaddleTensor:
    return (a >= b) & (a <= b)


class Wide:
    """An array [S] of float64 or bool: `value` is a tensor, or a value of a graph.

    `name` is set where the program writes the value to a variable with this name, from which a host reads it.
    """

    __slots__ = ("name", "value")

    def __init__(self, value: PaddleTensor, name: str | None = None) -> None:
        self.value = value
        self.name = name

    def __len__(self) -> int:
        return int(self.value.shape[0])

    __add__ = __radd__ = _operator(operator.add)
    __mul__ = __rmul__ = _operator(operator.mul)
    __sub__ = _operator(operator.sub)
    __rsub__ = _operator(lambda a, b: b - a)
    __truediv__ = _operator(operator.truediv)
    __rtruediv__ = _operator(lambda a, b: b / a)
    __pow__ = _operator(operator.pow)
    __gt__ = _operator(operator.gt)
    __ge__ = _operator(operator.ge)
    __lt__ = _operator(operator.lt)
    __le__ = _operator(operator.le)
    __eq__: Any = _operator(_equal)
    __ne__: Any = _operator(lambda a, b: F.logical_not(_equal(a, b)))

    def __neg__(self) -> Wide:
        return 0.0 - self

    def __bool__(self) -> bool:
        if not isinstance(self.value, paddle.Tensor):
            raise TypeError(
                "a number of a static graph is unknown while the graph is built: Python cannot branch on it"
            )
        return bool(self.value)


def plain(number: Operand) -> PaddleTensor:
    """A number, an array or a tensor of any dtype as what Paddle calculates with, without a loss."""
    if isinstance(number, Wide):
        return number.value
    if isinstance(number, bool):
        return F.full([1], number, "bool")
    if isinstance(number, int | float):
        return F.full([1], float(_constants(number) if math.isinf(number) else number), WIDE)
    return F.cast(number, WIDE)


def _constants(numbers: float | Sequence[float | list[float]]) -> np.ndarray:
    """`numbers` as float64; the largest one in the place of an infinity that may not be."""
    found = np.asarray(numbers, np.float64)
    return np.clip(found, -LARGEST_FLOAT, LARGEST_FLOAT) if np.isinf(found).any() and not may_be_infinite() else found


class PaddleFunctions:
    """`ArrayFunctions` for `Wide`."""

    @staticmethod
    def where(condition: Wide, then: Operand, other: Operand) -> Wide:
        parts = condition.value, plain(then), plain(other)
        shape = list(np.broadcast_shapes(*(tuple(part.shape) for part in parts)))
        # in a graph Paddle would broadcast by adding zeros, and -0 + 0 is 0
        return Wide(F.where(*(part if list(part.shape) == shape else F.expand(part, shape) for part in parts)))

    @staticmethod
    def maximum(a: Wide, b: Operand) -> Wide:
        return Wide(F.maximum(plain(a), plain(b)))

    @staticmethod
    def sqrt(a: Wide) -> Wide:
        return Wide(F.sqrt(plain(a)))

    @staticmethod
    def power(a: Wide, exponent: float) -> Wide:
        return a**exponent

    @staticmethod
    def tanh(a: Wide) -> Wide:
        return Wide(F.tanh(plain(a)))

    @staticmethod
    def nonfinite(a: Wide) -> Wide:
        return Wide(F.logical_not(F.isfinite(plain(a))))

    @staticmethod
    def either(a: Wide, b: Operand) -> Wide:
        return Wide(F.logical_or(plain(a), plain(b)))

    @staticmethod
    def any(a: Wide) -> Wide:
        if 0 in a.value.shape:
            return Wide(F.full([1], False, "bool"))
        return Wide(F.reshape(F.max(F.cast(a.value, WIDE)), [1])) > 0.0

    @staticmethod
    def array(values: Sequence[Operand], like: Wide) -> Wide:
        if all(isinstance(value, int | float | list) for value in values):
            return Wide(F.assign(_constants(values)))
        return Wide(F.concat([plain(value) for value in values]))

    @staticmethod
    def indices(values: Sequence[int], like: Wide) -> PaddleTensor:
        return F.assign(np.asarray(values, dtype=np.int64))

    @staticmethod
    def take(a: Wide, index: PaddleTensor) -> Wide:
        return Wide(F.gather(a.value, index, axis=len(a.value.shape) - 1))

    @staticmethod
    def sort(a: Wide) -> Wide:
        return Wide(F.sort(a.value, axis=0))

    @staticmethod
    def sum(a: Wide) -> Wide:
        return Wide(F.sum(a.value, axis=[0]))

    @staticmethod
    def column(n: int, like: Wide) -> Wide:
        return Wide(F.assign(np.arange(n, dtype=np.float64)[:, None]))

    @staticmethod
    def combine(a: Wide, index: PaddleTensor, segments: int, how: str) -> Wide:
        if how == "sum":
            return Wide(_added(a.value, index, segments))
        broken = a != a
        number = FUNCTIONS.where(broken, 0.0, a).value
        largest = F.put_along_axis(F.zeros([segments], WIDE), index, number, 0, reduce="amax")
        total = Wide(_added(a.value, index, segments))
        return FUNCTIONS.where(total != total, total, Wide(largest))  # the maximum of a scatter forgets a NaN


FUNCTIONS = PaddleFunctions()


def _added(value: PaddleTensor, index: PaddleTensor, segments: int) -> PaddleTensor:
    return F.index_add(F.zeros([segments], WIDE), index, 0, value)
