"""The engine of plain Paddle operations: eager tensors on any device, and values of static graphs of both kinds.

Sums are taken in float64, so no finite 16- or 32-bit gradient leaves the range, and products are made in float64. The
gradients come in slots, and what is written is a new value in the slot.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import paddle
from paddle.base.data_feeder import convert_dtype

from gradclip.engines.base import (
    LARGEST,
    NO_FLOAT,
    NO_ORDER,
    SMALLEST,
    Engine,
    Kept,
    Measure,
    Slot,
    Tables,
    UnsupportedGradient,
    along,
    around,
    row_axes,
    rows_first,
)
from gradclip.engines.paddle_arrays import FUNCTIONS, LARGEST_FLOAT, WIDE, Wide, may_be_infinite, plain
from gradclip.engines.paddle_layout import PaddleValues, unit_axis
from gradclip.engines.paddle_legacy import OPERATIONS as F
from gradclip.engines.paddle_legacy import PaddleTensor
from gradclip.errors import NothingClipped
from gradclip.rules.arrays import Operand
from gradclip.rules.norm import Norm
from gradclip.rules.response import Response, is_clamp
from gradclip.rules.scope import Element, Global, Row, Scope
from gradclip.rules.segments import Shape

COMPLEX = ("complex64", "complex128")
DTYPES = ("float16", "bfloat16", "float32", "float64", *COMPLEX)


class PaddleBatch(NamedTuple):
    """The slots of the gradients and, of each gradient, the dtype by name and the shape."""

    slots: list[Slot]
    dtypes: list[str]
    shapes: list[Shape]

    def axes(self, scope: Scope) -> list[Kept | None]:
        """The axes of the rows of each gradient."""
        return row_axes(scope, self.shapes, unit_axis)


class SlotValues(PaddleValues):
    """`Values` for slots with eager tensors."""

    @staticmethod
    def wide(tensor: Slot, index: int) -> PaddleTensor:
        return PaddleValues.wide(tensor.value, index)

    @staticmethod
    def tensor(value: PaddleTensor, like: object) -> Slot:
        return Slot(value)

    @staticmethod
    def put_(tensor: Slot, source: Slot) -> None:
        tensor.value = source.value.astype(tensor.value.dtype)

    @staticmethod
    def where(flag: Wide | PaddleTensor, then: PaddleTensor, other: PaddleTensor) -> PaddleTensor:
        if not isinstance(flag, Wide):
            return paddle.where(flag, then, other)
        shape = list(then.shape)
        return paddle.where(paddle.expand(flag.value, shape) if shape else flag.value.reshape([]), then, other)


class PaddleEngine(Engine):
    """Slots with dense tensors or graph values of 16, 32 or 64 bits, real or complex; no number is read but on demand.

    A number of a graph is read from the variable that the program wrote it to, in the current scope.
    """

    name = "paddle"
    values = SlotValues()
    waits = True
    moves = True
    unit_axis = staticmethod(unit_axis)

    def owns(self, tensor: object) -> bool:
        return isinstance(tensor, Slot)

    def gather(self, tensors: list[Slot], tables: Tables | None = None) -> PaddleBatch:
        dtypes = [dtype_name(slot.value) for slot in tensors]
        shapes = [tuple(slot.value.shape) for slot in tensors]
        for index, (dtype, shape) in enumerate(zip(dtypes, shapes, strict=True)):
            if dtype not in DTYPES:
                raise UnsupportedGradient(index, NO_FLOAT.format(dtype))
            if -1 in shape:
                raise UnsupportedGradient(index, f"its shape {shape} is unknown before the program runs: reshape it")
        return PaddleBatch(tensors, dtypes, shapes)

    def repeated(self, batch: PaddleBatch) -> set[int]:
        first: dict[int, int] = {}
        return {index for index, slot in enumerate(batch.slots) if first.setdefault(id(slot), index) != index}

    def refuse_unordered(self, batch: PaddleBatch) -> None:
        for index, dtype in enumerate(batch.dtypes):
            if dtype in COMPLEX:
                raise UnsupportedGradient(index, NO_ORDER)

    def measure(self, batch: PaddleBatch, scope: Scope, norm: Norm) -> Measure:
        if not batch.slots:
            return _of_nothing(norm.combine == "sum" and norm.p not in (1.0, 2.0))
        if isinstance(scope, Element):
            return self._peaks(batch)
        parts = [_rows(batch, index, kept) for index, kept in enumerate(batch.axes(scope))]
        scaled = norm.combine == "sum" and (norm.p not in (1.0, 2.0) or self.holds_float64(batch))
        totals, scales = zip(*(_total(part, norm.p, scaled) for part in parts), strict=True)
        total, scale = F.concat(totals), F.concat(scales) if scaled else None
        broken = F.cast(FUNCTIONS.nonfinite(Wide(total)).value, WIDE)  # a total is non-finite where an element is
        if isinstance(scope, Global):
            total, scale = _total_of_all(total, scale, norm.p)
            broken = _over(broken, F.sum)
        return Measure(Wide(total), Wide(broken), FUNCTIONS, 1.0 if scale is None else Wide(scale))

    def apply_(
        self, batch: PaddleBatch, scope: Scope, coefficient: Wide, zeroes: bool = True, enlarges: bool = True
    ) -> None:
        for index, factor in enumerate(_factors(batch, scope, coefficient.value)):
            _rewrite(batch, index, partial(_scaled, factor=factor, zeroes=zeroes))

    def map_(self, batch: PaddleBatch, response: Response, low: Operand, high: Operand) -> None:
        self.refuse_unordered(batch)
        for index in range(len(batch.slots)):
            lower, upper = (_of_tensor(bound, index) for bound in (low, high))
            _rewrite(batch, index, partial(_mapped, response=response, low=lower, high=upper))

    def zero_nonfinite_(self, batch: PaddleBatch) -> None:
        for slot, dtype in zip(batch.slots, batch.dtypes, strict=True):
            slot.value = F.cast(_finite(_wide(slot.value, dtype)), dtype)

    def shapes(self, batch: PaddleBatch, scope: Scope) -> list[Shape]:
        return rows_first(batch.shapes, batch.axes(scope))

    def holds_float64(self, batch: PaddleBatch) -> bool:
        return any(dtype in ("float64", "complex128") for dtype in batch.dtypes)

    def to_host(self, array: Wide | float) -> list[float]:
        if not isinstance(array, Wide):
            return [array]
        found = array.value.numpy() if array.name is None else _written(array.name)
        numbers = np.atleast_1d(found).astype(np.float64)
        if not may_be_infinite():
            numbers = np.where(np.abs(numbers) == LARGEST_FLOAT, np.copysign(np.inf, numbers), numbers)
        return list(numbers.tolist())

    def on_host(self, arrays: Sequence[Wide]) -> list[Wide]:
        """The arrays on the host, moved in one copy; what a program has written is where it was written."""
        far = [array for array in arrays if isinstance(array.value, paddle.Tensor) and 0 not in array.value.shape]
        if not far:
            return list(arrays)
        flat = F.concat([F.reshape(F.cast(array.value, WIDE), [-1]) for array in far]).numpy()
        ends = np.cumsum([math.prod(array.value.shape) for array in far])
        moved = {id(a): _near(numbers, a.value) for a, numbers in zip(far, np.split(flat, ends[:-1]), strict=True)}
        return [moved.get(id(array), array) for array in arrays]

    def _peaks(self, batch: PaddleBatch) -> Measure:
        """For each tensor the largest positive and the largest negative magnitude of its finite elements."""
        self.refuse_unordered(batch)
        highest, lowest, broken = [], [], []
        for index in range(len(batch.slots)):
            rows = _rows(batch, index, None)
            finite = _finite(rows)
            highest.append(F.max(finite, axis=AROUND))
            lowest.append(F.min(finite, axis=AROUND))
            broken.append(F.sum(F.cast(F.logical_not(F.isfinite(rows)), WIDE), axis=AROUND))
        zero = F.zeros([len(broken)], WIDE)
        peaks = F.maximum(_alternating(F.concat(highest), -F.concat(lowest)), F.zeros([1], WIDE))
        return Measure(Wide(peaks), Wide(_alternating(F.concat(broken), zero)), FUNCTIONS)


def _near(numbers: np.ndarray, like: PaddleTensor) -> Wide:
    """An array on the host, of the shape and the dtype of another one."""
    return Wide(paddle.to_tensor(numbers.reshape(like.shape).astype(dtype_name(like)), place=paddle.CPUPlace()))


def dtype_name(value: PaddleTensor) -> str:
    """The dtype of a tensor or of a graph value, by name."""
    return str(convert_dtype(value.dtype)).replace("uint16", "bfloat16")


def _of_nothing(scaled: bool) -> Measure:
    """The measure of no gradients, with a scale for none of them if `scaled`."""
    none = Wide(F.zeros([0], WIDE))
    return Measure(none, none, FUNCTIONS, none if scaled else 1.0)


AROUND = [0, 2]


def _rows(batch: PaddleBatch, index: int, kept: Kept | None) -> PaddleTensor:
    """A gradient as [before, segments, after], wide; one without elements as a single 0 for each segment."""
    value, dtype, shape = batch.slots[index].value, batch.dtypes[index], batch.shapes[index]
    cut = around(shape, kept)
    if 0 in shape:
        return F.zeros([1, cut[1], 1], WIDE)
    return F.reshape(_wide(value, dtype), list(cut))


def _wide(value: PaddleTensor, dtype: str) -> PaddleTensor:
    return value if dtype == WIDE else F.cast(value, "complex128" if dtype in COMPLEX else WIDE)


def _finite(wide: PaddleTensor) -> PaddleTensor:
    """`wide` with zeros where it is not finite."""
    return F.where(F.isfinite(wide), wide, F.zeros(wide.shape, wide.dtype))


def _alternating(a: PaddleTensor, b: PaddleTensor) -> PaddleTensor:
    return F.reshape(F.stack([a, b], axis=1), [-1])


def _total(rows: PaddleTensor, p: float, scaled: bool) -> tuple[PaddleTensor, PaddleTensor]:
    """The power sum or maximum of each segment; if `scaled`, in units of the largest magnitude, which comes with it."""
    if p == 2.0 and not scaled and not rows.is_complex():
        return F.sum(rows * rows, axis=AROUND), None
    rows = F.abs(rows)
    if p == math.inf:
        return F.max(rows, axis=AROUND), None
    if not scaled:
        return F.sum(rows * rows if p == 2.0 else rows, axis=AROUND), None
    peak = Wide(F.max(rows, axis=AROUND))
    scale = FUNCTIONS.where(FUNCTIONS.nonfinite(peak), LARGEST, FUNCTIONS.maximum(peak, SMALLEST))
    powers = (Wide(rows) / Wide(F.reshape(scale.value, [-1, 1]))) ** p
    return F.sum(powers.value, axis=AROUND), scale.value


def _total_of_all(total: PaddleTensor, scale: PaddleTensor, p: float) -> tuple[PaddleTensor, PaddleTensor]:
    """One total and its scale from those of the parts."""
    if p == math.inf:
        return _over(total, F.max), None
    if scale is None:
        return _over(total, F.sum), None
    largest = _over(scale, F.max)
    return _over(total * (Wide(scale / largest) ** p).value, F.sum), largest


def _over(parts: PaddleTensor, how: Callable[..., PaddleTensor]) -> PaddleTensor:
    """The sum or the maximum of an array, as an array [1]."""
    return F.reshape(how(parts, axis=[0]), [1])


def _factors(batch: PaddleBatch, scope: Scope, coefficient: PaddleTensor) -> Sequence[PaddleTensor]:
    """The coefficient of each gradient, shaped to multiply it."""
    if isinstance(scope, Global):
        return [coefficient] * len(batch.slots)
    if not isinstance(scope, Row):
        return [F.slice(coefficient, [0], [index], [index + 1]) for index in range(len(batch.slots))]
    factors, start = [], 0
    for shape, dtype, kept in zip(batch.shapes, batch.dtypes, batch.axes(scope), strict=True):
        stop = start + around(shape, kept)[1]
        factor = F.slice(coefficient, [0], [start], [stop])
        if 0 not in shape:  # Paddle takes a 0 of a new shape for the old one's number
            factor = F.reshape(factor, along(shape, kept) + [1] * (dtype in COMPLEX))
        factors.append(factor)
        start = stop
    return factors


def _rewrite(batch: PaddleBatch, index: int, change: Callable[[PaddleTensor], PaddleTensor]) -> None:
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


def _scaled(wide: PaddleTensor, factor: PaddleTensor, zeroes: bool) -> PaddleTensor:
    scaled = wide * factor
    return FUNCTIONS.where(Wide(factor) == 0.0, 0.0, Wide(scaled)).value if zeroes else scaled  # 0 * inf is NaN


def _of_tensor(bound: Operand, index: int) -> Operand:
    """The bound of one tensor, from one for all or from an array of them."""
    if not isinstance(bound, Wide) or len(bound) == 1:
        return bound
    return Wide(F.slice(bound.value, [0], [index], [index + 1]))


def _mapped(value: PaddleTensor, response: Response, low: Operand, high: Operand) -> PaddleTensor:
    if is_clamp(response):
        if isinstance(high, float) and math.isinf(high):
            return value
        return F.minimum(F.maximum(value, plain(low)), plain(high))
    wide, where = Wide(value), FUNCTIONS.where
    finite = Wide(F.isfinite(value))
    ratio = Wide(F.abs(value)) / where(wide > 0.0, high, 0.0 - low)
    return where(finite, wide * response.coefficient(ratio, FUNCTIONS), wide).value


def _written(name: str) -> PaddleTensor:
    """What the last run of the program wrote to the variable `name` of the current scope."""
    variable = paddle.static.global_scope().find_var(name)
    if variable is None:
        raise NothingClipped(
            f"the current scope has no variable {name!r}: run the program that clips first, and read the result in the "
            "scope that it ran in (paddle.static.scope_guard)"
        )
    return np.asarray(variable.get_tensor())


ENGINE = PaddleEngine()
