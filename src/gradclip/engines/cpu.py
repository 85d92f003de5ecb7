"""The CPU engine: numba kernels over a table of pointers, on the framework's own threads.

Read `cpu_gather` (from tensors to a table), `cpu_walk` (from a table to chunks, on threads), `cpu_table` (the compiled
part of both), `cpu_kernels` (what is done to a chunk), and `cpu_code`, which finds what was compiled or has it made:
each function when it is first used, for one type of element.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np

from gradclip.engines import cpu_layout as layout
from gradclip.engines import cpu_respond
from gradclip.engines.base import (
    LARGEST,
    LEAST,
    NO_ORDER,
    SAFE_TOTALS,
    Engine,
    Measure,
    Tables,
    UnsupportedGradient,
    around,
)
from gradclip.engines.cpu_gather import Adapter, CpuBatch, Gatherer, Table, Via
from gradclip.engines.cpu_walk import walk
from gradclip.engines.reference import NUMPY
from gradclip.rules.arrays import SCALARS, Operand
from gradclip.rules.norm import Norm
from gradclip.rules.response import Normalize, Response, Smooth, Zero, is_clamp
from gradclip.rules.scope import Axes, Element, Global, Row, Scope
from gradclip.rules.segments import Shape

KERNEL_OF_ORDER = {2.0: ("squares", layout.SUM), 1.0: ("magnitudes", layout.SUM), math.inf: ("peak", layout.MAX)}
KIND_OF_SMOOTH = {"reciprocal": layout.RECIPROCAL, "sqrt": layout.SQRT, "tanh": layout.TANH}


class CpuEngine(Engine):
    """Contiguous CPU tensors of fp16, bf16, fp32 and fp64 in place; others through payloads of the adapter."""

    name = "cpu"
    waits = False
    clamps = True

    def __init__(self, adapter: Adapter, via: Via | None = None) -> None:
        self.values = adapter.VALUES
        self._threads = adapter.threads
        self._written = adapter.written
        self._owns = adapter.on_cpu
        self._unit_axis = adapter.unit_axis
        self._gather = Gatherer(adapter, via)
        self._module = adapter.__name__

    def __reduce__(self) -> tuple[Callable[[str], CpuEngine], tuple[str]]:
        return engine_for, (self._module,)

    def owns(self, tensor: object) -> bool:
        return self._owns(tensor)

    def gather(self, tensors: list[Any], tables: Tables | None = None) -> CpuBatch:
        return self._gather(tensors, tables)

    def repeated(self, batch: CpuBatch) -> set[int]:
        return batch.repeated()

    def refuse_unordered(self, batch: CpuBatch) -> None:
        for index in batch.complex if batch.payloads else ():
            raise UnsupportedGradient(index, NO_ORDER)

    def measure(self, batch: CpuBatch, scope: Scope, norm: Norm) -> Measure:
        """One read; two for an order other than 1, 2 and inf."""
        if isinstance(scope, Element):
            self.refuse_unordered(batch)
            return peaks_of(self._each(batch.table, len(batch), "extremes", layout.MAX))
        if batch.payloads:
            batch.straighten(scope)
        if norm.p not in KERNEL_OF_ORDER:
            return self._powers(batch, batch.magnitudes(), scope, norm.p)
        measure = self._sums(batch, batch.table if norm.p == 2.0 else batch.magnitudes(), scope, norm.p)
        if norm.p == 2.0 and batch.payloads and batch.complex and measure.xp.any(measure.nonfinite > 0):
            # the squares were taken of real and imaginary parts, and a bad element may have two bad ones
            return self._sums(batch, batch.magnitudes(), scope, norm.p)
        return measure

    def _sums(self, batch: CpuBatch, table: Table, scope: Scope, order: float) -> Measure:
        """Sums of float64 that may have lost elements to the ends of its range are taken again in units of a peak."""
        name, how = KERNEL_OF_ORDER[order]
        wide = how == layout.SUM and self.holds_float64(batch)
        if isinstance(scope, Global):
            total, nonfinite = self._total(table, name, how)
            if wide and not (SAFE_TOTALS[0] < total < SAFE_TOTALS[1] or nonfinite):
                return self._powers(batch, table, scope, order)
            return Measure(total, nonfinite, SCALARS)
        segment_table, segments = segmented(batch, table, scope)
        found = self._each(segment_table, segments, name, how)
        if wide and not np.all((SAFE_TOTALS[0] < found[:, 0]) & (found[:, 0] < SAFE_TOTALS[1])):
            return self._powers(batch, table, scope, order)
        return Measure(found[:, 0], found[:, 2], NUMPY, np.ones(segments) if wide else 1.0)

    def _powers(self, batch: CpuBatch, table: Table, scope: Scope, order: float) -> Measure:
        """The peak of each segment first, then the power sum in units of it: no power leaves the range of fp64."""
        if isinstance(scope, Global):
            peak, nonfinite = self._total(table, "peak", layout.MAX)
            scale = (peak or LEAST) if peak < math.inf else LARGEST
            share(table, scale, order)
            total, _ = self._total(table, "powers", layout.SUM, table.address + 8 * layout.ARGUMENT)
            return Measure(total, nonfinite, SCALARS, scale)
        table, segments = segmented(batch, table, scope)
        peaks = self._each(table, segments, "peak", layout.MAX)
        parameters = np.full((segments, 2), order)
        parameters[:, 0] = np.where(peaks[:, 0] < math.inf, np.maximum(peaks[:, 0], LEAST), LARGEST)
        found = self._each(table, segments, "powers", layout.SUM, parameters.ctypes.data, 2)
        return Measure(found[:, 0], peaks[:, 2], NUMPY, parameters[:, 0])

    def _total(self, table: Table, name: str, how: int, parameters: int = 0) -> tuple[float, int]:
        """Total and number of non-finite elements of all segments together."""
        walk(table, name, self._threads, table.address + 8 * layout.RESULT, how, 0, parameters)
        return table.numbers[layout.RESULT], int(table.numbers[layout.RESULT + 2])

    def _each(
        self, table: Table, segments: int, name: str, how: int, parameters: int = 0, stride: int = 0
    ) -> np.ndarray:
        """[S, 4]: what the kernel `name` found in each segment."""
        found = np.zeros((segments, 4))
        walk(table, name, self._threads, found.ctypes.data, how, 1, parameters, stride)
        return found

    def in_arrays(self, measure: Measure) -> Measure:
        """The measure of one segment in arrays [1] instead of floats."""
        numbers: tuple[Operand, ...] = (measure.total, measure.nonfinite, measure.scale)
        total, nonfinite, scale = (np.array([float(number)]) for number in numbers)
        return Measure(total, nonfinite, NUMPY, scale)

    def in_floats(self, measure: Measure) -> Measure:
        """The measure of one segment in floats instead of arrays [1]."""
        arrays: tuple[Operand, ...] = (measure.total, measure.nonfinite, measure.scale)
        total, nonfinite, scale = (np.ravel(array)[0].item() for array in arrays)
        return Measure(total, nonfinite, SCALARS, scale)

    def apply_(
        self,
        batch: CpuBatch,
        scope: Scope,
        coefficient: np.ndarray | float,
        zeroes: bool = True,
        enlarges: bool = True,
    ) -> None:
        """One read and one write of the segments whose coefficient is not 1."""
        if isinstance(scope, Global):
            if coefficient != 1.0:
                share(batch.table, float(coefficient))
                walk(batch.table, "scale", self._threads, parameters=batch.table.address + 8 * layout.ARGUMENT)
                self._wrote(batch, range(len(batch)))
            return
        if batch.payloads:
            batch.straighten(scope)
        table, segments = segmented(batch, batch.table, scope)
        factors = np.ascontiguousarray(np.broadcast_to(coefficient, segments), np.float64)
        changed = factors != 1.0
        if changed.any():
            walk(table, "scale", self._threads, parameters=factors.ctypes.data, stride=1)
            self._wrote(batch, owners(batch, scope, changed))

    def clamp_(self, batch: CpuBatch, low: float, high: float) -> Measure:
        """`measure(Element)` and `map_(Rescale)` in one read; what lies inside [low, high] is not written."""
        self.refuse_unordered(batch)
        found = self._map(batch, "clamp", low, high, how=layout.MAX)
        return peaks_of(found)

    def map_(self, batch: CpuBatch, response: Response, low: Operand, high: Operand) -> None:
        """One read; parts of 16 KB in which an element changes are written."""
        self.refuse_unordered(batch)
        phi = type(response).coefficient  # a derived response may have one of its own
        if is_clamp(response):
            self._map(batch, "clamp", low, high)
        elif isinstance(response, Smooth) and phi is Smooth.coefficient:
            self._map(batch, "respond", KIND_OF_SMOOTH[response.kind], low, high)
        elif isinstance(response, Normalize) and phi is Normalize.coefficient:
            self._map(batch, "respond", layout.NORMALIZE, low, high, response.epsilon)
        elif phi is Zero.coefficient:
            self._map(batch, "respond", layout.ZERO, low, high)
        else:
            self._wrote(batch, cpu_respond.respond(batch.table, len(batch), response, low, high))

    def zero_nonfinite_(self, batch: CpuBatch) -> None:
        """One read; parts of 16 KB with a non-finite element are written."""
        parts = np.ones(len(batch))
        parts[batch.complex] = 2.0
        found = self._each(batch.table, len(batch), "zero_nonfinite", layout.SUM, parts.ctypes.data, 1)
        self._wrote(batch, np.flatnonzero(found[:, 3]).tolist())

    def _map(self, batch: CpuBatch, name: str, *parameters: Operand, how: int = layout.SUM) -> np.ndarray:
        table = batch.table
        if any(isinstance(parameter, np.ndarray) for parameter in parameters):
            rows = np.column_stack([np.broadcast_to(parameter, len(batch)) for parameter in parameters])
            found = self._each(table, len(batch), name, how, rows.ctypes.data, rows.shape[1])
        else:
            share(table, *parameters)
            found = self._each(table, len(batch), name, how, table.address + 8 * layout.ARGUMENT)
        self._wrote(batch, np.flatnonzero(found[:, 3]).tolist())
        return found

    def _wrote(self, batch: CpuBatch, indices: Sequence[int]) -> None:
        """Copy payloads back to where they came from, and tell the framework."""
        for index in batch.payloads and indices:
            payload = batch.payloads.get(index)
            if payload is not None and payload.writeback is not None:
                payload.writeback()
        if len(indices):
            every = len(indices) == len(batch)
            self._written(batch.sources if every else [batch.sources[index] for index in indices])

    def unit_axis(self, shape: Shape) -> Axes:
        return self._unit_axis(shape)

    def shapes(self, batch: CpuBatch, scope: Scope) -> list[Shape]:
        return batch.rows_first(scope)

    def holds_float64(self, batch: CpuBatch) -> bool:
        return bool(batch.table.words[layout.CODES] >> 3 & 1)

    def to_host(self, array: np.ndarray | float) -> list[float]:
        return [array] if isinstance(array, float | int) else list(np.atleast_1d(array).tolist())


@cache
def engine_for(module: str) -> CpuEngine:
    """The engine with the adapter that is this module: what a copy of an engine becomes, in other processes too."""
    return CpuEngine(import_module(module))


def share(table: Table, *parameters: float) -> None:
    """Put parameters that all segments share into the head."""
    struct.pack_into(f"={len(parameters)}d", table.words, 8 * layout.ARGUMENT, *parameters)


def segmented(batch: CpuBatch, table: Table, scope: Scope) -> tuple[Table, int]:
    """The table whose segments are those of `scope`, and their number."""
    if isinstance(scope, Row):
        rows = batch.rows(table, scope)
        return rows, rows.words[layout.SEGMENTS]
    return table, len(batch)


def owners(batch: CpuBatch, scope: Scope, chosen: np.ndarray) -> list[int]:
    """The places of the tensors of which a segment is `chosen`."""
    if isinstance(scope, Row):
        rows = [around(shape, kept)[1] for shape, kept in zip(batch.shapes(), batch.axes(scope), strict=True)]
        return list(np.unique(np.repeat(np.arange(len(batch)), rows)[chosen]).tolist())
    return list(np.flatnonzero(chosen).tolist())


def peaks_of(found: np.ndarray) -> Measure:
    """The measure of `Element` from what `extremes` found in each tensor."""
    nonfinite = np.zeros(2 * len(found))
    nonfinite[0::2] = found[:, 2]
    return Measure(found[:, :2].reshape(-1), nonfinite, NUMPY)
