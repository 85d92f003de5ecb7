"""The engine of NVIDIA GPUs: one launch measures all gradients of a dtype, and one scales them.

Nothing waits for the device. What is decided lies there, so a launch that has nothing to scale returns at once.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache, cached_property, partial
from typing import Any, NamedTuple

import numpy as np
import torch
import triton.language as tl

from gradclip.engines import triton_decide, triton_rows
from gradclip.engines import triton_kernels as kernels
from gradclip.engines.base import Batch, Kept, Measure, Tables, row_axes
from gradclip.engines.overlap import apart
from gradclip.engines.torch import TorchEngine, refuse_elsewhere
from gradclip.engines.torch_functions import FUNCTIONS, uploaded
from gradclip.engines.torch_layout import TorchPayload, distinct, payload_of, plain, unit_axis, written
from gradclip.engines.torch_measure import DIRECT
from gradclip.engines.triton_reader import seen
from gradclip.engines.triton_table import ChunkTable, Launch, Structure, cuts_of, parts_of, signature_of
from gradclip.rules.arrays import Operand
from gradclip.rules.norm import Norm
from gradclip.rules.response import Response, is_clamp
from gradclip.rules.scope import Element, Global, Row, Scope, Tensor
from gradclip.rules.segments import Shape

WAVES = 8
"""Programs for each multiprocessor; each takes many chunks."""
FEW_PROGRAMS = 3
"""Programs where they run one after another."""
LANES = 256
TYPES = {
    torch.float16: tl.float16,
    torch.bfloat16: tl.bfloat16,
    torch.float32: tl.float32,
    torch.float64: tl.float64,
}
RANGES = {
    (tl.float32, 1.0): (1e-30, 1e36),
    (tl.float32, 2.0): (1e-13, 1e18),
    (tl.float64, 1.0): (1e-290, 1e295),
    (tl.float64, 2.0): (1e-140, 1e150),
    (tl.float32, 0.0): (0.0, math.inf),
    (tl.float64, 0.0): (0.0, math.inf),
}
"""Where the largest element of a chunk lies so, no power of one is lost and no sum of eight overflows in that type."""
NOWHERE = (math.inf, math.inf)


class View(NamedTuple):
    """Contiguous tensors that stand for the gradients of a batch: their structure, and where they lie.

    `places` are the addresses on the host and `addresses` the same on the device; `copies` are those of them that are
    to be copied to the gradients when they were written.
    """

    structure: Structure
    places: np.ndarray
    addresses: torch.Tensor
    tensors: Sequence[torch.Tensor]
    copies: Sequence[TorchPayload] = ()

    @classmethod
    def of(
        cls,
        structure: Structure,
        places: np.ndarray,
        tensors: Sequence[torch.Tensor],
        copies: Sequence[TorchPayload] = (),
    ) -> View:
        """The view of tensors of this structure that lie there."""
        return cls(structure, places, structure.addresses(places), tensors, copies)

    def written(self) -> None:
        """Tell autograd what kernels have written, and copy it to the gradients that these are copies of."""
        written(self.tensors)
        for payload in self.copies:
            assert payload.writeback is not None
            payload.writeback()


class TritonBatch:
    """The gradients, and the ways to see them. `direct` is their own memory, where all of them are contiguous there.

    Else `payloads` stand for them.
    """

    def __init__(
        self,
        tensors: list[torch.Tensor],
        structures: Tables,
        payloads: list[TorchPayload],
        direct: View | None = None,
    ) -> None:
        self.tensors, self.payloads, self.direct = tensors, payloads, direct
        self._structures = structures
        self._views: dict[tuple[bool, bool], View] = {}

    @cached_property
    def targets(self) -> list[torch.Tensor]:
        """The views of the gradients that hold each place of memory once."""
        return [distinct(tensor) for tensor in self.tensors]

    def axes(self, scope: Scope) -> list[Kept | None]:
        """The axes of the rows of each gradient."""
        return row_axes(scope, [tensor.shape for tensor in self.tensors], unit_axis)

    def view(self, scope: Scope, magnitudes: bool = False) -> View:
        """The view in which the elements of a segment are found; of complex gradients their parts, or `magnitudes`."""
        if self.direct is not None:
            return self.direct
        straight = isinstance(scope, Row) and any(p.order is not None for p in self.payloads)
        magnitudes = magnitudes and any(p.magnitudes is not None for p in self.payloads)
        if (straight, magnitudes) not in self._views:
            self._views[straight, magnitudes] = self._new_view(straight, magnitudes)
        return self._views[straight, magnitudes]

    def _new_view(self, straight: bool, magnitudes: bool) -> View:
        payloads = [p.straight() if straight and p.order is not None else p for p in self.payloads]
        tensors = [p.magnitudes if magnitudes and p.magnitudes is not None else p.tensor for p in payloads]
        structure = kept_structure(self._structures, (straight, magnitudes, signature_of(tensors)), tensors)
        copies = [p for p in payloads if p.writeback is not None]
        return View.of(structure, np.array([tensor.data_ptr() for tensor in tensors], np.int64), tensors, copies)

    def table(self, view: View, scope: Scope) -> ChunkTable:
        """The chunks of a scope."""
        found = view.structure.tables.get(scope)
        if found is None:
            shapes = [tensor.shape for tensor in self.tensors]
            parts = [parts_of(tensor, shape) for tensor, shape in zip(view.tensors, shapes, strict=True)]
            cuts = cuts_of(shapes, self.axes(scope), parts)
            found = view.structure.tables[scope] = view.structure.table_of(cuts, isinstance(scope, Global))
        return found


MOST = 4
"""Structures that are kept for a batch at once."""


def kept_structure(structures: Tables, signature: Hashable, tensors: Sequence[torch.Tensor]) -> Structure:
    """The structure of this signature, or a new one of these tensors."""
    structure = known_structure(structures, signature)
    if structure is None:
        structure = Structure(signature, tensors)
        structures[:] = [*structures[1 - MOST :], structure]
    return structure


def known_structure(structures: Tables, signature: Hashable) -> Structure | None:
    """The structure of this signature, if it is kept."""
    return next((known for known in structures if known.signature == signature), None)


class TritonEngine(TorchEngine):
    """Any dense or complex gradient on a GPU; sparse ones by their values.

    One that is neither contiguous nor a permutation of what is, is measured and written through a copy.
    """

    name = "triton"
    clamps = True
    xp = FUNCTIONS

    def __init__(self) -> None:
        super().__init__(waits=True)

    def gather(self, tensors: list[torch.Tensor], tables: Tables | None = None) -> Batch:
        structures = Tables() if tables is None else tables
        met = seen(tensors, structures)
        if met is not None and (known := known_structure(structures, met.key)) is not None:
            return TritonBatch(tensors, structures, [], View.of(known, met.addresses, tensors))
        found = [plain(tensor, index) for index, tensor in enumerate(tensors)]
        for index, tensor in enumerate(found):
            refuse_elsewhere(tensor, found[0], index)
        payloads = [payload_of(tensor, index) for index, tensor in enumerate(found)]
        direct = None
        if met is not None and all(payload.order is None and payload.writeback is None for payload in payloads):
            structure = kept_structure(structures, met.key, found)
            direct = View.of(structure, met.addresses, found)
        return TritonBatch(found, structures, payloads, direct)

    def repeated(self, batch: Batch) -> set[int]:
        if batch.direct is not None:
            starts = batch.direct.places
            if apart(starts, starts + batch.direct.structure.sizes):
                return set()
        return super().repeated(batch)

    def shapes(self, batch: Batch, scope: Scope) -> list[Shape]:
        if batch.direct is None:
            return super().shapes(batch, scope)
        known: dict[Scope, list[Shape]] = batch.direct.structure.shapes
        if scope not in known:
            known[scope] = super().shapes(batch, scope)
        return known[scope]

    def holds_float64(self, batch: Batch) -> bool:
        return batch.direct.structure.holds_float64 if batch.direct is not None else super().holds_float64(batch)

    def measure(self, batch: Batch, scope: Scope, norm: Norm) -> Measure:
        if isinstance(scope, Element):
            self.refuse_unordered(batch)
            return peaks_in(self._clamp(batch, None, measures=True))
        summed, ranged = norm.combine == "sum", self.holds_float64(batch) or norm.p not in DIRECT
        scaled = summed and ranged
        view = batch.view(scope, magnitudes=True)
        table = batch.table(view, scope)
        out = torch.empty((table.segments, 3), dtype=torch.float64, device=table.chunks.device)
        order = norm.p if summed else 0.0
        for launch in table.launches:
            acc = sums_in(launch.dtype)
            low, high = RANGES.get((acc, order), NOWHERE)
            options = {"ACC": acc, "LOW": low, "HIGH": high, "ORDER": order, "SCALED": scaled}
            if launch.rows:
                start(triton_rows.measure_rows, table, launch, [view.addresses, out], **options)
            else:
                arguments = [view.addresses, *results(table), out]
                start(kernels.measure, table, launch, arguments, LANES=LANES, **options)
        total, scale, nonfinite = out.unbind(1)
        hard_clip = partial(hard_clip_of, out, ORDER=order, SCALED=ranged)
        return Measure(total, nonfinite, FUNCTIONS, scale if ranged else 1.0, hard_clip)

    def apply_(
        self, batch: Batch, scope: Scope, coefficient: torch.Tensor, zeroes: bool = True, enlarges: bool = True
    ) -> None:
        view = batch.view(scope)
        table = batch.table(view, scope)
        factors = coefficient.to(torch.float64).contiguous()
        for launch in table.launches:
            if launch.rows:
                start(triton_rows.scale_rows, table, launch, [view.addresses, factors])
            else:
                acc = sums_in(launch.dtype)
                start(kernels.scale, table, launch, [view.addresses, factors], ACC=acc, LANES=LANES)
        view.written()

    def map_(self, batch: Batch, response: Response, low: Operand, high: Operand) -> None:
        self.refuse_unordered(batch)
        if is_clamp(response):
            self._clamp(batch, (low, high), measures=False)
        else:
            super().map_(batch, response, low, high)

    def clamp_(self, batch: Batch, low: Operand, high: Operand) -> Measure:
        self.refuse_unordered(batch)
        return peaks_in(self._clamp(batch, (low, high), measures=True))

    def zero_nonfinite_(self, batch: Batch) -> None:
        view = batch.view(Tensor())
        table = batch.table(view, Tensor())
        for launch in table.launches:
            start(kernels.zero_nonfinite, table, launch, [view.addresses])
        view.written()

    def _clamp(self, batch: Batch, bounds: tuple[Operand, Operand] | None, measures: bool) -> torch.Tensor:
        """Clamp the elements between bounds, if there are some; what was measured before, where that was asked for."""
        view = batch.view(Tensor())
        table = batch.table(view, Tensor())
        device = table.chunks.device
        out = torch.empty((table.segments, 3), dtype=torch.float64, device=device)
        limits, step = (out, 0) if bounds is None else bounds_on(device, *bounds, table.segments)
        options = {"MEASURES": measures, "WRITES": bounds is not None, "LANES": LANES}
        for launch in table.launches:
            arguments = [view.addresses, limits, step, *results(table), out]
            start(kernels.clamp, table, launch, arguments, ACC=sums_in(launch.dtype), **options)
        if bounds is not None:
            view.written()
        return out


def hard_clip_of(
    out: torch.Tensor, threshold: float, divisor: Operand, action: int, coefficient: float, broken: int, **options: Any
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """See `Measure.hard_clip`; `out` is what the kernels that measure have written."""
    segments, divides = len(out), divisor is not None
    numbers = torch.empty((2, segments), dtype=torch.float64, device=out.device)
    actions = torch.empty(segments, dtype=torch.int64, device=out.device)
    launch(
        triton_decide.decide,
        (-(-segments // triton_decide.BLOCK),),
        out.device,
        (out, segments, triton_decide.bits_of(threshold), divisor if divides else out, numbers, actions),
        DIVIDES=divides,
        ACTION=action,
        BROKEN_COEFFICIENT=coefficient,
        BROKEN_ACTION=broken,
        BLOCK=triton_decide.BLOCK,
        num_warps=4,
        **options,
    )
    norm, factors = numbers.unbind()
    return norm, factors, actions


def sums_in(dtype: torch.dtype) -> Any:
    """The type that kernels calculate in."""
    return tl.float64 if dtype is torch.float64 else tl.float32


def peaks_in(out: torch.Tensor) -> Measure:
    """The measure of scope `Element` from what the kernel that clamps has written."""
    counts = torch.stack([out[:, 2], torch.zeros_like(out[:, 2])], 1)
    return Measure(out[:, :2].reshape(-1), counts.reshape(-1), FUNCTIONS)


def results(table: ChunkTable) -> list[torch.Tensor]:
    """What the kernels that measure add up with."""
    return [table.firsts, table.tickets, table.totals, table.scales, table.counts]


def bounds_on(device: torch.device, low: Operand, high: Operand, tensors: int) -> tuple[torch.Tensor, int]:
    """Two bounds for all tensors, or for each, on the device, and the numbers from one tensor's to the next one's."""
    if not isinstance(low, torch.Tensor) and not isinstance(high, torch.Tensor):
        return uploaded((float(low), float(high)), torch.float64, device), 0
    each = [torch.as_tensor(bound, dtype=torch.float64, device=device).expand(tensors) for bound in (low, high)]
    return torch.stack(each, 1), 2


def start(kernel: Any, table: ChunkTable, chunks: Launch, arguments: Sequence[Any], **options: Any) -> None:
    """Launch a kernel on chunks of a table."""
    device = table.chunks.device
    shape = {"BLOCK": chunks.block, "ALIGNED": chunks.aligned}
    if chunks.rows:
        shape = {"ROWS": chunks.rows, "COLUMNS": chunks.block}
    grid = min(chunks.end - chunks.begin, programs(device))
    launch(
        kernel,
        (grid,),
        device,
        (table.chunks, chunks.begin, chunks.end, *arguments),
        DTYPE=TYPES[chunks.dtype],
        **shape,
        num_warps=8 if chunks.block >= 4096 else 4,
        **options,
    )


def launch(kernel: Any, grid: tuple[int], device: torch.device, arguments: Sequence[Any], **options: Any) -> None:
    """Launch a kernel on a device."""
    with on(device):
        kernel[grid](*arguments, **options)


def on(device: torch.device) -> AbstractContextManager[object]:
    """The device that kernels are launched on."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


@cache
def programs(device: torch.device) -> int:
    """How many programs are launched at most."""
    if device.type != "cuda":
        return FEW_PROGRAMS
    return WAVES * int(torch.cuda.get_device_properties(device).multi_processor_count)


ENGINE = TritonEngine()
