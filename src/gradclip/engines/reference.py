"""The oracle: NumPy in float64, written for reading and not for speed.

Every other engine is tested against this one, and this one against numbers worked out by hand.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

from gradclip.engines.base import (
    LARGEST,
    LEAST,
    NO_ORDER,
    SAFE_NORMS,
    Engine,
    Kept,
    Measure,
    Tables,
    UnsupportedGradient,
    row_axes,
    rows_first,
)
from gradclip.engines.overlap import repeats
from gradclip.rules.norm import Norm
from gradclip.rules.response import Response, is_clamp
from gradclip.rules.scope import Axes, Element, Global, Scope
from gradclip.rules.segments import Shape


class NumpyFunctions:
    """`ArrayFunctions` for NumPy arrays."""

    where: Callable[..., Any] = staticmethod(np.where)
    maximum: Callable[..., np.ndarray] = staticmethod(np.maximum)
    sqrt: Callable[..., np.ndarray] = staticmethod(np.sqrt)
    power: Callable[..., np.ndarray] = staticmethod(np.power)
    tanh: Callable[..., np.ndarray] = staticmethod(np.tanh)
    either: Callable[..., np.ndarray] = staticmethod(np.logical_or)
    any: Callable[..., Any] = staticmethod(np.any)

    @staticmethod
    def nonfinite(a: np.ndarray) -> np.ndarray:
        flags: np.ndarray = ~np.isfinite(a)
        return flags

    @staticmethod
    def array(values: Sequence[float], like: np.ndarray) -> np.ndarray:
        return np.asarray(values, dtype=np.float64)

    @staticmethod
    def indices(values: Sequence[int], like: np.ndarray) -> np.ndarray:
        return np.asarray(values, dtype=np.intp)

    @staticmethod
    def take(a: np.ndarray, index: np.ndarray) -> np.ndarray:
        return a[..., index]

    @staticmethod
    def sort(a: np.ndarray) -> np.ndarray:
        return np.sort(a, axis=0)

    @staticmethod
    def sum(a: np.ndarray) -> np.ndarray:
        total: np.ndarray = np.sum(a, axis=0)
        return total

    @staticmethod
    def column(n: int, like: np.ndarray) -> np.ndarray:
        return _column(n)

    @staticmethod
    def combine(a: np.ndarray, index: np.ndarray, segments: int, how: str) -> np.ndarray:
        out = np.zeros(segments, dtype=np.float64)
        (np.add if how == "sum" else np.maximum).at(out, index, a)
        return out


@cache
def _column(n: int) -> np.ndarray:
    numbers = np.arange(n, dtype=np.float64)[:, None]
    numbers.flags.writeable = False
    return numbers


NUMPY = NumpyFunctions()


class NumpyValues:
    """`Values` for NumPy arrays."""

    @staticmethod
    def wide(tensor: np.ndarray, index: int) -> np.ndarray:
        return tensor.astype(np.promote_types(tensor.dtype, np.float32))

    @staticmethod
    def tensor(value: np.ndarray, like: np.ndarray) -> np.ndarray:
        return np.array(value)

    @staticmethod
    def zeros(value: np.ndarray) -> np.ndarray:
        return np.zeros_like(value)

    @staticmethod
    def where(flag: np.ndarray, then: np.ndarray, other: np.ndarray) -> np.ndarray:
        return np.where(flag, then, other)

    @staticmethod
    def put_(tensor: np.ndarray, source: np.ndarray) -> None:
        tensor[...] = source

    @staticmethod
    def beside(saved: np.ndarray, value: np.ndarray) -> np.ndarray:
        return saved.astype(value.dtype)


class NumpyBatch:
    """The gradients, and what they hold now as float64 (complex128 for complex ones)."""

    def __init__(self, tensors: list[np.ndarray]) -> None:
        self.tensors = tensors

    @property
    def values(self) -> list[np.ndarray]:
        return [tensor.astype(np.complex128 if tensor.dtype.kind == "c" else np.float64) for tensor in self.tensors]


def first_axis(shape: Shape) -> int:
    return 0


class ReferenceEngine(Engine):
    """NumPy arrays of any float or complex type; every number is made in float64.

    NumPy has no layers and so no output units: `unit_axis` says where another framework has them.
    """

    name = "reference"
    waits = False
    values = NumpyValues()

    def __init__(self, unit_axis: Callable[[Shape], Axes] = first_axis) -> None:
        self._unit_axis = unit_axis

    def unit_axis(self, shape: Shape) -> Axes:
        return self._unit_axis(shape)

    def owns(self, tensor: object) -> bool:
        return isinstance(tensor, np.ndarray) and tensor.dtype.kind in "fc"

    def gather(self, tensors: list[np.ndarray], tables: Tables | None = None) -> NumpyBatch:
        for index, tensor in enumerate(tensors):
            if not self.owns(tensor):
                raise UnsupportedGradient(index, f"the reference engine takes NumPy float arrays, got {type(tensor)}")
        return NumpyBatch(tensors)

    def repeated(self, batch: NumpyBatch) -> set[int]:
        return repeats(batch.tensors)

    def refuse_unordered(self, batch: NumpyBatch) -> None:
        for index, value in enumerate(batch.values):
            if value.dtype.kind == "c":
                raise UnsupportedGradient(index, NO_ORDER)

    def measure(self, batch: NumpyBatch, scope: Scope, norm: Norm) -> Measure:
        if isinstance(scope, Element):
            self.refuse_unordered(batch)
            return _peaks(batch.values)
        axes = self._axes(batch, scope)
        parts = [segment for value, kept in zip(batch.values, axes, strict=True) for segment in _segments(value, kept)]
        if isinstance(scope, Global):
            parts = [np.concatenate([value.ravel() for value in batch.values])]
        found = np.array([_total(np.abs(part), norm) for part in parts], float).reshape(-1, 2)
        nonfinite = np.array([np.count_nonzero(~np.isfinite(part)) for part in parts])
        return Measure(found[:, 0], nonfinite, NUMPY, found[:, 1])

    def apply_(
        self, batch: NumpyBatch, scope: Scope, coefficient: np.ndarray, zeroes: bool = True, enlarges: bool = True
    ) -> None:
        factors = iter(np.broadcast_to(coefficient, 1) if isinstance(scope, Global) else coefficient)
        shared = next(factors) if isinstance(scope, Global) else None
        for tensor, value, kept in zip(batch.tensors, batch.values, self._axes(batch, scope), strict=True):
            for out, part in zip(_segments(tensor, kept), _segments(value, kept), strict=True):
                factor = shared if shared is not None else next(factors)
                if factor != 1.0:
                    out[...] = part * factor if factor != 0.0 else 0.0

    def map_(self, batch: NumpyBatch, response: Response, low: np.ndarray, high: np.ndarray) -> None:
        lows, highs = (np.broadcast_to(bound, len(batch.tensors)) for bound in (low, high))
        for tensor, value, low, high in zip(batch.tensors, batch.values, lows, highs, strict=True):
            if is_clamp(response):
                tensor[...] = np.clip(value, low, high)
                continue
            finite = np.isfinite(value)
            ratio = np.abs(np.where(finite, value, 0.0)) / np.where(value > 0, high, -low)
            tensor[...] = np.where(finite, value * response.coefficient(ratio, NUMPY), value)

    def zero_nonfinite_(self, batch: NumpyBatch) -> None:
        for tensor in batch.tensors:
            tensor[~np.isfinite(tensor)] = 0.0

    def shapes(self, batch: NumpyBatch, scope: Scope) -> list[Shape]:
        return rows_first([tensor.shape for tensor in batch.tensors], self._axes(batch, scope))

    def _axes(self, batch: NumpyBatch, scope: Scope) -> list[Kept | None]:
        return row_axes(scope, [tensor.shape for tensor in batch.tensors], self._unit_axis)

    def holds_float64(self, batch: NumpyBatch) -> bool:
        return any(tensor.dtype in (np.float64, np.complex128) for tensor in batch.tensors)

    def to_host(self, array: np.ndarray) -> list[float]:
        return list(np.atleast_1d(array).tolist())


def _segments(value: np.ndarray, kept: Kept | None) -> list[np.ndarray]:
    """Views of the segments of one tensor."""
    in_front = np.moveaxis(value, kept or (), range(len(kept or ())))
    return [in_front[(*row, ...)] for row in np.ndindex(in_front.shape[: len(kept or ())])]


def _total(magnitude: np.ndarray, norm: Norm) -> tuple[float, float]:
    """The power sum and its scale: where powers leave float64, the largest element is taken out of them."""
    peak = float(magnitude.max(initial=0.0))
    if math.isinf(norm.p):
        return peak, 1.0
    if not math.isfinite(peak):
        return peak, LARGEST
    if peak == 0.0:
        return 0.0, LEAST
    if norm.p in (1.0, 2.0) and SAFE_NORMS[0] < peak < SAFE_NORMS[1]:
        return float(np.sum(magnitude**norm.p)), 1.0
    return float(np.sum((magnitude / peak) ** norm.p)), peak


def _peaks(values: list[np.ndarray]) -> Measure:
    """For each tensor the largest positive and the largest negative magnitude of its finite elements."""
    finite = [value[np.isfinite(value)] for value in values]
    peaks = [(part.max(initial=0.0), (-part).max(initial=0.0)) for part in finite]
    counts = [(value.size - part.size, 0) for value, part in zip(values, finite, strict=True)]
    return Measure(np.array(peaks).ravel(), np.array(counts).ravel(), NUMPY)
