"""The engine of plain Paddle operations: eager tensors on any device, and values of static graphs of both kinds.

Sums are taken in float64, so no finite 16- or 32-bit gradient leaves the range, and products are made in float64. The
gradients come in slots, and what is written is a new value in the slot.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import paddle
from paddle.base.data_feeder import convert_dtype

from gradclip.engines.base import NO_ORDER, Measure, Slot, UnsupportedGradient, repeats
from gradclip.engines.paddle_arrays import FUNCTIONS, WIDE, Wide, plain
from gradclip.engines.paddle_legacy import OPERATIONS as F
from gradclip.rules.arrays import Array
from gradclip.rules.norm import Norm
from gradclip.rules.response import Rescale, Response
from gradclip.rules.scope import Element, Global, Row, Scope, rows_of

COMPLEX = ("complex64", "complex128")
DTYPES = ("float16", "bfloat16", "float32", "float64", *COMPLEX)


class Batch(NamedTuple):
    """The slots of the gradients and, of each gradient, the dtype by name and the shape."""

    slots: list[Slot]
    dtypes: list[str]
    shapes: list[tuple[int, ...]]


class PaddleEngine:
    """Slots with dense tensors or graph values of 16, 32 or 64 bits, real or complex; no number is read but on demand.

    A number of a graph is read from the variable that the program wrote it to, in the current scope.
    """

    name = "paddle"
    waits = True

    def owns(self, tensor: Any) -> bool:
        return isinstance(tensor, Slot)

    def gather(self, tensors: list[Slot]) -> Batch:
        dtypes = [dtype_name(slot.value) for slot in tensors]
        shapes = [tuple(slot.value.shape) for slot in tensors]
        for index, (dtype, shape) in enumerate(zip(dtypes, shapes, strict=True)):
            if dtype not in DTYPES:
                raise UnsupportedGradient(index, f"its dtype is {dtype}, and gradients are floats: cast it first")
            if -1 in shape:
                raise UnsupportedGradient(index, f"its shape {shape} is unknown before the program runs: reshape it")
        return Batch(tensors, dtypes, shapes)

    def repeated(self, batch: Batch) -> set[int]:
        return repeats([(id(slot), 1) for slot in batch.slots])

    def refuse_unordered(self, batch: Batch) -> None:
        for index, dtype in enumerate(batch.dtypes):
            if dtype in COMPLEX:
                raise UnsupportedGradient(index, NO_ORDER)

    def measure(self, batch: Batch, scope: Scope, norm: Norm) -> Measure:
        if isinstance(scope, Element):
            return self._peaks(batch)
        parts = [_rows(batch, index, scope) for index in range(len(batch.slots))]
        totals, scales = zip(*(_total(part, norm.p) for part in parts), strict=True)
        total, scale = F.concat(totals), None if scales[0] is None else F.concat(scales)
        broken = F.cast(FUNCTIONS.nonfinite(Wide(total)).value, WIDE)  # a total is non-finite where an element is
        if isinstance(scope, Global):
            total, scale = _whole(total, scale, norm.p)
            broken, _ = _whole(broken, None, 1.0)
        return Measure(Wide(total), Wide(broken), FUNCTIONS, 1.0 if scale is None else Wide(scale))

    def apply_(self, batch: Batch, scope: Scope, coefficient: Array, zeroes: bool = True) -> None:
        for index, factor in enumerate(_factors(batch, scope, coefficient.value)):
            _rewrite(batch, index, partial(_scaled, factor=factor, zeroes=zeroes))

    def map_(self, batch: Batch, response: Response, low: Any, high: Any) -> None:
        self.refuse_unordered(batch)
        for index in range(len(batch.slots)):
            _rewrite(batch, index, lambda wide: _mapped(Wide(wide), response, low, high).value)

    def purge_(self, batch: Batch) -> None:
        for slot, dtype in zip(batch.slots, batch.dtypes, strict=True):
            slot.value = F.cast(_finite(_wide(slot.value, dtype)), dtype)

    def shapes(self, batch: Batch) -> list[tuple[int, ...]]:
        return batch.shapes

    def holds_float64(self, batch: Batch) -> bool:
        return any(dtype in ("float64", "complex128") for dtype in batch.dtypes)

    def to_host(self, array: Array) -> list[float]:
        if not isinstance(array, Wide):
            return [array]
        found = array.value.numpy() if array.name is None else _written(array.name)
        return [float(number) for number in np.reshape(found, -1)]

    def _peaks(self, batch: Batch) -> Measure:
        """For each tensor the largest positive and the largest negative magnitude of its finite elements."""
        self.refuse_unordered(batch)
        highest, lowest, broken = [], [], []
        for index in range(len(batch.slots)):
            rows = _rows(batch, index, Element())
            finite = _finite(rows)
            highest.append(F.max(finite, axis=1))
            lowest.append(F.min(finite, axis=1))
            broken.append(F.sum(F.cast(F.logical_not(F.isfinite(rows)), WIDE), axis=1))
        zero = F.zeros([len(broken)], WIDE)
        peaks = F.maximum(_alternating(F.concat(highest), -F.concat(lowest)), F.zeros([1], WIDE))
        return Measure(Wide(peaks), Wide(_alternating(F.concat(broken), zero)), FUNCTIONS)


def dtype_name(value: Any) -> str:
    """The dtype of a tensor or of a graph value, by name."""
    return str(convert_dtype(value.dtype)).replace("uint16", "bfloat16")


def _rows(batch: Batch, index: int, scope: Scope) -> Any:
    """The elements of a gradient [segments, elements], wide; of one without elements a single 0 for each segment."""
    value, dtype, shape = batch.slots[index].value, batch.dtypes[index], batch.shapes[index]
    number = rows_of(shape) if isinstance(scope, Row) else 1
    if 0 in shape:
        return F.zeros([number, 1], WIDE)
    return F.reshape(_wide(value, dtype), [number, -1])


def _wide(value: Any, dtype: str) -> Any:
    return value if dtype == WIDE else F.cast(value, "complex128" if dtype in COMPLEX else WIDE)


def _finite(wide: Any) -> Any:
    """`wide` with zeros where it is not finite."""
    return F.where(F.isfinite(wide), wide, F.zeros(wide.shape, wide.dtype))


def _alternating(a: Any, b: Any) -> Any:
    return F.reshape(F.stack([a, b], axis=1), [-1])


def _total(rows: Any, p: float) -> tuple[Any, Any]:
    """The power sum or maximum of each row, and its scale where powers could leave the range of float64."""
    if p == 2.0 and not rows.is_complex():
        return F.sum(rows * rows, axis=1), None
    rows = F.abs(rows)
    if p == math.inf:
        return F.max(rows, axis=1), None
    if p in (1.0, 2.0):
        return F.sum(rows * rows if p == 2.0 else rows, axis=1), None
    peak = Wide(F.max(rows, axis=1))
    usable = Wide(F.isfinite(peak.value) & (peak > 0.0).value)
    scale = FUNCTIONS.where(usable, peak, 1.0)
    powers = (Wide(rows) / Wide(F.reshape(scale.value, [-1, 1]))) ** p
    return F.sum(powers.value, axis=1), scale.value


def _whole(total: Any, scale: Any, p: float) -> tuple[Any, Any]:
    """One total and its scale from those of the parts."""
    if scale is None:
        return _total(F.reshape(total, [1, -1]), 1.0 if p == 2.0 else p)
    norms = Wide(total) ** (1.0 / p) * Wide(scale)
    return _total(F.reshape(norms.value, [1, -1]), p)


def _factors(batch: Batch, scope: Scope, coefficient: Any) -> Sequence[Any]:
    """The coefficient of each gradient, shaped to multiply it."""
    if isinstance(scope, Global):
        return [coefficient] * len(batch.slots)
    if not isinstance(scope, Row):
        return [F.slice(coefficient, [0], [index], [index + 1]) for index in range(len(batch.slots))]
    factors, start = [], 0
    for shape, dtype in zip(batch.shapes, batch.dtypes, strict=True):
        stop = start + rows_of(shape)
        axes = len(shape) + (dtype in COMPLEX)
        factors.append(F.reshape(F.slice(coefficient, [0], [start], [stop]), [-1] + [1] * (axes - 1)))
        start = stop
    return factors


def _rewrite(batch: Batch, index: int, change: Callable[[Any], Any]) -> None:
    """Put `change` of a gradient, which it gets wide and with an axis, in the slot."""
    slot, dtype, shape = batch.slots[index], batch.dtypes[index], batch.shapes[index]
    if 0 in shape:
        return
    if dtype in COMPLEX:
        parts = F.as_real(slot.value)
        slot.value = F.as_complex(F.cast(change(F.cast(parts, WIDE)), parts.dtype))
        return
    value = change(_wide(slot.value if shape else F.reshape(slot.value, [1]), dtype))
    value = value if dtype == WIDE else F.cast(value, dtype)
    slot.value = value if shape else F.reshape(value, [])


def _scaled(wide: Any, factor: Any, zeroes: bool) -> Any:
    scaled = wide * factor
    return FUNCTIONS.where(Wide(factor) == 0.0, 0.0, Wide(scaled)).value if zeroes else scaled  # 0 * inf is NaN


def _mapped(wide: Wide, response: Response, low: Any, high: Any) -> Any:
    where = FUNCTIONS.where
    if isinstance(response, Rescale):
        return Wide(F.minimum(F.maximum(wide.value, plain(low)), plain(high)))
    finite = Wide(F.isfinite(wide.value))
    ratio = Wide(F.abs(wide.value)) / where(wide > 0.0, high, 0.0 - low)
    return where(finite, wide * response.coefficient(ratio, FUNCTIONS), wide)


def _written(name: str) -> Any:
    """What the last run of the program wrote to the variable `name` of the current scope."""
    variable = paddle.static.global_scope().find_var(name)
    if variable is None:
        raise RuntimeError(
            f"the current scope has no variable {name!r}: run the program that clips first, and read the result in the "
            "scope that it ran in (paddle.static.scope_guard)"
        )
    return np.asarray(variable.get_tensor())


ENGINE = PaddleEngine()
