"""The engine of plain PyTorch operations: any device, no compiled code, no wait for the device.

Power sums are taken in float64, so no finite 16- or 32-bit gradient leaves the range. On an accelerator a coefficient
stays where it was made, and scaling multiplies by it whatever it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch

from gradclip.engines.base import (
    LEAST,
    NO_ORDER,
    SAFE_NORMS,
    Engine,
    Kept,
    Measure,
    Tables,
    UnsupportedGradient,
    apart,
    around,
    repeats,
    row_axes,
    rows_first,
)
from gradclip.engines.torch_layout import (
    COMPLEX,
    VALUES,
    distinct,
    extent,
    magnitudes,
    memory,
    parts,
    plain,
    refuse_overlap,
    unit_axis,
)
from gradclip.rules.arrays import Operand
from gradclip.rules.norm import Norm
from gradclip.rules.response import Response, is_clamp
from gradclip.rules.scope import Element, Global, Row, Scope
from gradclip.rules.segments import Shape


class TorchFunctions:
    """`ArrayFunctions` for tensors of one axis on their device."""

    sqrt = staticmethod(torch.sqrt)
    tanh = staticmethod(torch.tanh)
    either = staticmethod(torch.logical_or)
    any = staticmethod(torch.any)

    @staticmethod
    def where(condition: torch.Tensor, then: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return torch.where(condition, then, other)

    @staticmethod
    def power(a: torch.Tensor, exponent: float) -> torch.Tensor:
        return a**exponent

    @staticmethod
    def maximum(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.clamp(a, min=b)

    @staticmethod
    def nonfinite(a: torch.Tensor) -> torch.Tensor:
        return ~torch.isfinite(a)

    @staticmethod
    def array(values: Sequence[float], like: torch.Tensor) -> torch.Tensor:
        if values and isinstance(values[0], list):
            return torch.tensor(values, dtype=like.dtype, device=like.device)
        return _uploaded(tuple(values), like.dtype, like.device)

    @staticmethod
    def indices(values: Sequence[int], like: torch.Tensor) -> torch.Tensor:
        return _uploaded(tuple(values), torch.int64, like.device)

    @staticmethod
    def take(a: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        return a[..., index]

    @staticmethod
    def sort(a: torch.Tensor) -> torch.Tensor:
        return torch.sort(a, dim=0).values

    @staticmethod
    def sum(a: torch.Tensor) -> torch.Tensor:
        return a.sum(dim=0)

    @staticmethod
    def column(n: int, like: torch.Tensor) -> torch.Tensor:
        return torch.arange(n, dtype=like.dtype, device=like.device)[:, None]

    @staticmethod
    def combine(a: torch.Tensor, index: torch.Tensor, segments: int, how: str) -> torch.Tensor:
        out = torch.zeros(segments, dtype=a.dtype, device=a.device)
        return out.index_add_(0, index, a) if how == "sum" else out.scatter_reduce_(0, index, a, "amax")


FUNCTIONS = TorchFunctions()


DIRECT = (1.0, 2.0, math.inf)
"""The orders that PyTorch has kernels for."""


class TorchBatch(NamedTuple):
    """The elements of each gradient, and the views of them to write."""

    tensors: list[torch.Tensor]
    targets: list[torch.Tensor]

    def axes(self, scope: Scope) -> list[Kept | None]:
        """The axes of the rows of each gradient."""
        return row_axes(scope, [tensor.shape for tensor in self.tensors], unit_axis)


class TorchEngine(Engine):
    """Any dense, sparse COO or complex gradient on any device. `waits` is true for all devices but the CPU."""

    name = "torch"
    moves = True
    values = VALUES
    unit_axis = staticmethod(unit_axis)

    def __init__(self, waits: bool) -> None:
        self.waits = waits

    def owns(self, tensor: object) -> bool:
        return isinstance(tensor, torch.Tensor)

    def gather(self, tensors: list[torch.Tensor], tables: Tables | None = None) -> TorchBatch:
        found = [plain(tensor, index) for index, tensor in enumerate(tensors)]
        for index, tensor in enumerate(found):
            refuse_elsewhere(tensor, found[0], index)
            refuse_overlap(distinct(tensor), index)
        return TorchBatch(found, [distinct(tensor) for tensor in found])

    def repeated(self, batch: TorchBatch) -> set[int]:
        starts, ends = np.array([extent(tensor) for tensor in batch.tensors]).T
        return set() if apart(starts, ends) else repeats([memory(tensor) for tensor in batch.tensors])

    def refuse_unordered(self, batch: TorchBatch) -> None:
        for index, tensor in enumerate(batch.tensors):
            if tensor.dtype in COMPLEX:
                raise UnsupportedGradient(index, NO_ORDER)

    def measure(self, batch: TorchBatch, scope: Scope, norm: Norm) -> Measure:
        if isinstance(scope, Element):
            return self._peaks(batch)
        if norm.p not in DIRECT:
            return self._powers(batch, scope, norm.p)
        norms, scales = self._norms(batch, scope, norm)
        nonfinite = self._nonfinite(batch, scope, norms)
        if isinstance(scope, Global):
            norms, scales = norm_of_all(norms, scales, norm)
            nonfinite = nonfinite.sum().reshape(1)
        total = norms if norm.combine == "max" else norms**norm.p
        return Measure(total, nonfinite, FUNCTIONS, scales)

    def apply_(
        self, batch: TorchBatch, scope: Scope, coefficient: torch.Tensor, zeroes: bool = True, enlarges: bool = True
    ) -> None:
        factors = _factors(batch, scope, coefficient)
        with _writing(batch):
            for target, kept, factor in zip(batch.targets, batch.axes(scope), factors, strict=True):
                view = parts(target).movedim(kept, tuple(range(len(kept)))) if kept else parts(target)
                if self.waits:
                    _scale_on_device(view, factor, zeroes)
                else:
                    _scale_where_needed(view, factor)

    def map_(self, batch: TorchBatch, response: Response, low: Operand, high: Operand) -> None:
        self.refuse_unordered(batch)
        lows, highs = (_each(bound, len(batch.targets)) for bound in (low, high))
        with _writing(batch):
            for target, low, high in zip(batch.targets, lows, highs, strict=True):
                if not is_clamp(response):
                    _bend(target, response, low, high)
                elif self.waits or bool(((target < low) | (target > high)).any()):
                    target.clamp_(low, high)

    def zero_nonfinite_(self, batch: TorchBatch) -> None:
        with _writing(batch):
            for target in batch.targets:
                target.masked_fill_(~torch.isfinite(target), 0.0)

    def shapes(self, batch: TorchBatch, scope: Scope) -> list[Shape]:
        return rows_first([tensor.shape for tensor in batch.tensors], batch.axes(scope))

    def holds_float64(self, batch: TorchBatch) -> bool:
        return any(tensor.dtype in (torch.float64, torch.complex128) for tensor in batch.tensors)

    def to_host(self, array: torch.Tensor) -> list[float]:
        return list(array.tolist()) if isinstance(array, torch.Tensor) and array.ndim else [float(array)]

    def on_host(self, arrays: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The arrays on the host, moved in one copy for each device; the widest float holds all that they count."""
        moved: dict[int, torch.Tensor] = {}
        for device in {array.device for array in arrays}:
            here = [array for array in arrays if array.device == device]
            flat = torch.cat([array.reshape(-1).to(wide_of(array)) for array in here]).cpu()
            parts = torch.split(flat, [array.numel() for array in here])
            moved |= {id(a): part.reshape(a.shape).to(a.dtype) for a, part in zip(here, parts, strict=True)}
        return [moved[id(array)] for array in arrays]

    def _norms(self, batch: TorchBatch, scope: Scope, norm: Norm) -> tuple[torch.Tensor, torch.Tensor]:
        """The norm of each segment and its scale; squares of float64 may leave its range, which a device cannot tell.

        There they are taken in units of the largest element at once, elsewhere only if they have left it.
        """
        wide = norm.p in (1.0, 2.0) and self.holds_float64(batch)
        if wide and self.waits:
            return _norms_one_by_one(batch, scope, norm, scaled=True)
        quick = _plain(batch, scope)
        norms, scales = _norms_at_once(batch, norm) if quick else _norms_one_by_one(batch, scope, norm)
        if wide and bool(((norms <= SAFE_NORMS[0]) | (norms >= SAFE_NORMS[1])).any()):
            return _norms_one_by_one(batch, scope, norm, scaled=True)
        return norms, scales

    def _powers(self, batch: TorchBatch, scope: Scope, order: float) -> Measure:
        """The sums of other powers, in units of the largest element of each segment."""
        pairs = zip(batch.tensors, batch.axes(scope), strict=True)
        sums, scales = zip(*(_power_sums(tensor, kept, order) for tensor, kept in pairs), strict=True)
        total, scale = torch.cat(sums), torch.cat(scales)
        nonfinite = self._nonfinite(batch, scope, total)
        if isinstance(scope, Global):
            largest = scale.amax().reshape(1)
            total, scale = (total * (scale / largest) ** order).sum().reshape(1), largest
            nonfinite = nonfinite.sum().reshape(1)
        return Measure(total, nonfinite, FUNCTIONS, scale)

    def _nonfinite(self, batch: TorchBatch, scope: Scope, found: torch.Tensor) -> torch.Tensor:
        """The non-finite elements of each segment; on an accelerator, where that costs a read, 1 for any number."""
        flags = ~torch.isfinite(found)
        if self.waits or not bool(flags.any()):
            return flags.to(found.dtype)
        pairs = zip(batch.tensors, batch.axes(scope), strict=True)
        counts = [(~torch.isfinite(rows(tensor, kept))).sum(dim=AROUND) for tensor, kept in pairs]
        return torch.cat(counts).to(found.dtype)

    def _peaks(self, batch: TorchBatch) -> Measure:
        """For each tensor the largest positive and the largest negative magnitude of its finite elements."""
        self.refuse_unordered(batch)
        found, counts = [], []
        for tensor in batch.tensors:
            finite = torch.isfinite(tensor)
            kept = torch.where(finite, tensor, 0.0)
            zero = kept.new_zeros(1)
            found += [torch.cat([side.reshape(-1), zero]).amax() for side in (kept, -kept)]
            counts += [(~finite).sum(), finite.new_zeros((), dtype=torch.int64)]
        return Measure(torch.stack([peak.to(wide_of(peak)) for peak in found]), torch.stack(counts), FUNCTIONS)


def refuse_elsewhere(tensor: torch.Tensor, first: torch.Tensor, index: int) -> None:
    """Refuse a tensor that is not on the device of the first one."""
    if tensor.device != first.device:
        raise UnsupportedGradient(
            index, f"it is on {tensor.device} and others on {first.device}: clip each device by itself"
        )


def wide_of(tensor: torch.Tensor) -> torch.dtype:
    """The widest float of a tensor's device."""
    return torch.float32 if tensor.device.type == "mps" else torch.float64


def _plain(batch: TorchBatch, scope: Scope) -> bool:
    """Whether one call can take all norms: of tensors that are real and not empty."""
    known = not isinstance(scope, Row) and wide_of(batch.tensors[0]) is torch.float64
    return known and all(tensor.numel() and tensor.dtype not in COMPLEX for tensor in batch.tensors)


def _norms_at_once(batch: TorchBatch, norm: Norm) -> tuple[torch.Tensor, torch.Tensor]:
    norms = torch.stack(torch._foreach_norm(batch.tensors, norm.p, dtype=torch.float64))
    return norms, torch.ones_like(norms)


def _norms_one_by_one(
    batch: TorchBatch, scope: Scope, norm: Norm, scaled: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    pairs = zip(batch.tensors, batch.axes(scope), strict=True)
    norms, scales = zip(*(_norms(tensor, kept, norm, scaled) for tensor, kept in pairs), strict=True)
    return torch.cat(norms), torch.cat(scales)


def _norms(tensor: torch.Tensor, kept: Kept | None, norm: Norm, scaled: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """The norm of each segment of one tensor and its scale: 1, or if `scaled` the largest |x|."""
    cut, wide = rows(tensor, kept), wide_of(tensor)
    ones = torch.ones(cut.shape[1], dtype=wide, device=cut.device)
    if cut.numel() == 0:
        return torch.zeros_like(ones), _scale_of(torch.zeros_like(ones))
    if not scaled and wide is torch.float64:
        dtype = torch.complex128 if tensor.dtype in COMPLEX else wide
        return torch.linalg.vector_norm(cut, norm.p, dim=AROUND, dtype=dtype).to(wide), ones
    magnitude = magnitudes(cut, wide)
    peak = magnitude.amax(dim=AROUND)
    if norm.combine == "max":
        return peak, ones
    scale = _scale_of(peak)
    return torch.linalg.vector_norm(magnitude / scale[:, None], norm.p, dim=AROUND), scale


def _power_sums(tensor: torch.Tensor, kept: Kept | None, order: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The sum of |x / scale|^p of each segment of one tensor, and its scale: the largest |x|."""
    magnitude = magnitudes(rows(tensor, kept), wide_of(tensor))
    scale = _scale_of(magnitude.amax(dim=AROUND) if magnitude.numel() else magnitude.sum(dim=AROUND))
    return ((magnitude / scale[:, None]) ** order).sum(dim=AROUND), scale


def _scale_of(peak: torch.Tensor) -> torch.Tensor:
    """The largest |x| as a scale."""
    kind = torch.finfo(peak.dtype)
    least = LEAST if peak.dtype == torch.float64 else kind.tiny
    return torch.where(torch.isfinite(peak), peak.clamp(min=least), kind.max / 4)


AROUND = (0, 2)


def rows(tensor: torch.Tensor, kept: Kept | None) -> torch.Tensor:
    """`tensor` as [before, rows, after]: its segments lie along the middle axis."""
    return tensor.reshape(around(tensor.shape, kept))


def norm_of_all(norms: torch.Tensor, scales: torch.Tensor, norm: Norm) -> tuple[torch.Tensor, torch.Tensor]:
    """One norm and its scale from the norms of the parts and theirs."""
    scale = scales.amax().reshape(1)
    return torch.linalg.vector_norm(norms * (scales / scale), norm.p).reshape(1), scale


def _factors(batch: TorchBatch, scope: Scope, coefficient: torch.Tensor) -> Sequence[torch.Tensor]:
    """The coefficient of each target: one number, or for rows one for each, to multiply the target with rows first."""
    if isinstance(scope, Global):
        return [coefficient[0]] * len(batch.targets)
    if not isinstance(scope, Row):
        return list(coefficient.unbind())
    axes = batch.axes(scope)
    sizes = [around(tensor.shape, kept)[1] for tensor, kept in zip(batch.tensors, axes, strict=True)]
    return [
        _factor(factor, tensor, target, kept) if kept else factor[0]
        for factor, tensor, target, kept in zip(
            torch.split(coefficient, sizes), batch.tensors, batch.targets, axes, strict=True
        )
    ]


def _factor(factor: torch.Tensor, tensor: torch.Tensor, target: torch.Tensor, kept: Kept) -> torch.Tensor:
    """The coefficients of the rows of `tensor` that are in `target`, which holds each place of its memory once."""
    there = factor.reshape([tensor.shape[axis] for axis in kept])[tuple(slice(target.shape[axis]) for axis in kept)]
    return there.reshape(there.shape + (1,) * (parts(target).dim() - len(kept)))


def _each(bound: torch.Tensor | float, count: int) -> Sequence[torch.Tensor | float]:
    """One bound for each of `count` tensors, from one for all or from an array of them."""
    return bound.expand(count).unbind() if isinstance(bound, torch.Tensor) else [bound] * count


def _writing(batch: TorchBatch) -> AbstractContextManager[object]:
    """The mode to write in: what was made in inference mode is written in no other."""
    inference = any(target.is_inference() for target in batch.targets)
    return torch.inference_mode() if inference else nullcontext()


def _bend(target: torch.Tensor, response: Response, low: torch.Tensor | float, high: torch.Tensor | float) -> None:
    """Map each finite element by its ratio to the bound on its side."""
    wide = target.double() if target.device.type != "mps" else target.float()
    ratio = wide.abs() / torch.where(wide > 0, high, -low)
    coefficient: Operand = response.coefficient(ratio, FUNCTIONS)
    target.copy_(torch.where(torch.isfinite(wide), wide * coefficient, wide))


def _scale_where_needed(target: torch.Tensor, factor: torch.Tensor) -> None:
    """Scale on the CPU, where looking at the coefficient costs nothing; what keeps 1 is not written."""
    if factor.dim() == 0:
        value = factor.item()
        if value == 0.0:
            target.zero_()
        elif value != 1.0:
            target.copy_(target.double() * value) if _needs_wide(target, value) else target.mul_(value)
        return
    in_front = max((axis + 1 for axis, size in enumerate(factor.shape) if size != 1), default=1)
    changed = (factor != 1.0).reshape(factor.shape[:in_front]).nonzero(as_tuple=True)
    if changed[0].numel():
        part, factors = target[changed], factor[changed]
        target[changed] = torch.where(factors == 0.0, 0.0, _product(part, factors)).to(target.dtype)


def _scale_on_device(target: torch.Tensor, factor: torch.Tensor, zeroes: bool) -> None:
    """Scale without looking. A factor with an axis takes part in the promotion, so the product is made in its type."""
    target = target.reshape(1) if target.dim() == 0 else target
    factor = factor.reshape([1] * target.dim()) if factor.dim() == 0 else factor
    torch.mul(target, factor, out=target)
    if zeroes:
        target.masked_fill_(factor == 0.0, 0.0)  # 0 * inf is NaN


def _product(target: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """The product in a type that the coefficient does not leave."""
    return target.to(wide_of(target)) * factor


def _needs_wide(target: torch.Tensor, value: float) -> bool:
    return target.dtype is not torch.float64 and not 1e-30 < value < 1e30


@lru_cache(maxsize=256)
def _uploaded(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Constants on the device: copied there once, because a copy waits."""
    return torch.tensor(values, dtype=dtype, device=device)


CPU = TorchEngine(waits=False)
DEVICE = TorchEngine(waits=True)
