"""The engine of plain PyTorch operations: any device, no compiled code, no wait for the device.

Power sums are taken in float64, so no finite 16- or 32-bit gradient leaves the range. The number of operations does not
grow with that of the tensors, but with that of their shapes.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch

from gradclip.engines.base import (
    NO_ORDER,
    Engine,
    Kept,
    Measure,
    OnOtherDevice,
    Tables,
    UnsupportedGradient,
    row_axes,
    rows_first,
)
from gradclip.engines.overlap import apart, repeats
from gradclip.engines.torch_functions import FUNCTIONS, wide_of
from gradclip.engines.torch_layout import (
    COMPLEX,
    VALUES,
    are_plain,
    distinct,
    extents,
    hold_float64,
    memory,
    parts,
    plain,
    refuse_overlap,
    unit_axis,
)
from gradclip.engines.torch_map import bend_, clamp_
from gradclip.engines.torch_measure import nonfinite_of, peaks_of, totals_of
from gradclip.engines.torch_scale import (
    factors_of,
    row_factors,
    scale_on_device_,
    scale_rows_where_needed_,
    scale_where_needed_,
)
from gradclip.engines.torch_stacks import write_each_
from gradclip.rules.arrays import Operand
from gradclip.rules.norm import Norm
from gradclip.rules.response import Response, is_clamp
from gradclip.rules.scope import Element, Global, Row, Scope
from gradclip.rules.segments import Shape


class TorchBatch:
    """The elements of each gradient, and the views of them to write."""

    def __init__(self, tensors: list[torch.Tensor], targets: list[torch.Tensor]) -> None:
        self.tensors, self.targets = tensors, targets
        self._axes: dict[Scope, list[Kept | None]] = {}

    def axes(self, scope: Scope) -> list[Kept | None]:
        """The axes of the rows of each gradient."""
        if scope not in self._axes:
            self._axes[scope] = row_axes(scope, [tensor.shape for tensor in self.tensors], unit_axis)
        return self._axes[scope]


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

    @torch.no_grad()
    def gather(self, tensors: list[torch.Tensor], tables: Tables | None = None) -> TorchBatch:
        if are_plain(tensors):
            return TorchBatch(tensors, tensors)
        found = [plain(tensor, index) for index, tensor in enumerate(tensors)]
        for index, tensor in enumerate(found):
            refuse_elsewhere(tensor, found[0], index)
            refuse_overlap(distinct(tensor), index)
        return TorchBatch(found, [distinct(tensor) for tensor in found])

    def repeated(self, batch: TorchBatch) -> set[int]:
        extent = extents(batch.tensors, dense=batch.targets is batch.tensors)
        return set() if apart(*extent) else repeats([memory(tensor) for tensor in batch.tensors])

    def refuse_unordered(self, batch: TorchBatch) -> None:
        for index, tensor in enumerate(batch.tensors):
            if tensor.dtype in COMPLEX:
                raise UnsupportedGradient(index, NO_ORDER)

    @torch.no_grad()
    def measure(self, batch: TorchBatch, scope: Scope, norm: Norm) -> Measure:
        if isinstance(scope, Element):
            self.refuse_unordered(batch)
            peaks, counts = peaks_of(batch.tensors)
            return Measure(peaks, counts, FUNCTIONS)
        axes, together = batch.axes(scope), isinstance(scope, Global)
        totals, scales = totals_of(batch.tensors, axes, norm, together, looks=not self.waits)
        return Measure(totals, self._nonfinite(batch, axes, totals, together), FUNCTIONS, scales)

    @torch.no_grad()
    def apply_(
        self, batch: TorchBatch, scope: Scope, coefficient: torch.Tensor, zeroes: bool = True, enlarges: bool = True
    ) -> None:
        axes = batch.axes(scope)
        views = [parts(target) for target in batch.targets]
        if isinstance(scope, Row):
            factors: Sequence[torch.Tensor] = row_factors(coefficient, batch.tensors, batch.targets, axes)
        else:
            factors = factors_of(coefficient, views, isinstance(scope, Global))
        with _writing(batch):
            if self.waits:
                scale_on_device_(views, factors, zeroes)
                return
            for view, factor, kept in zip(views, factors, axes, strict=True):
                if kept:
                    scale_rows_where_needed_(view, factor, kept)
            whole = [place for place, kept in enumerate(axes) if not kept]
            scale_where_needed_([views[place] for place in whole], [factors[place].item() for place in whole])

    @torch.no_grad()
    def map_(self, batch: TorchBatch, response: Response, low: Operand, high: Operand) -> None:
        self.refuse_unordered(batch)
        with _writing(batch):
            if not is_clamp(response):
                bend_(batch.targets, response, low, high)
            else:
                clamp_(batch.targets, low, high, looks=not self.waits)

    @torch.no_grad()
    def zero_nonfinite_(self, batch: TorchBatch) -> None:
        with _writing(batch):
            write_each_(batch.targets, lambda stack: stack.tensor.masked_fill_(~torch.isfinite(stack.tensor), 0.0))

    def shapes(self, batch: TorchBatch, scope: Scope) -> list[Shape]:
        return rows_first([tensor.shape for tensor in batch.tensors], batch.axes(scope))

    def holds_float64(self, batch: TorchBatch) -> bool:
        return hold_float64(batch.tensors)

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

    def _nonfinite(
        self, batch: TorchBatch, axes: list[Kept | None], totals: torch.Tensor, together: bool
    ) -> torch.Tensor:
        """The non-finite elements of each segment; on an accelerator, where that costs a read, 1 for any number."""
        flags = FUNCTIONS.nonfinite(totals)
        if self.waits and together:
            return flags
        if self.waits or not bool(flags.any()):
            return flags.to(totals.dtype)
        counts = nonfinite_of(batch.tensors, axes).to(totals.dtype)
        return counts.sum(0, keepdim=True) if together else counts


def refuse_elsewhere(tensor: torch.Tensor, first: torch.Tensor, index: int) -> None:
    """Refuse a tensor that is not on the device of the first one."""
    if tensor.device != first.device:
        raise OnOtherDevice(index, f"it is on {tensor.device} and others on {first.device}: clip each device by itself")


def _writing(batch: TorchBatch) -> AbstractContextManager[object]:
    """The mode to write in: what was made in inference mode is written in no other."""
    inference = any(map(torch.Tensor.is_inference, batch.targets))
    return torch.inference_mode() if inference else nullcontext()


CPU = TorchEngine(waits=False)
DEVICE = TorchEngine(waits=True)
