"""The tables of the Triton engine: which elements each program of a kernel takes, laid out once for a structure.

A table stays while dtypes, shapes and alignments do; of what changes from step to step, the addresses of the gradients,
there is a list of its own, one number for each tensor.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
import triton

from gradclip.engines.base import Kept, around
from gradclip.engines.triton_kernels import FIELDS, MANY, PERIOD, RUN, SEGMENT, SIZE, SLOT, START, TENSOR
from gradclip.engines.triton_reader import ALIGNMENT
from gradclip.rules.scope import Scope
from gradclip.rules.segments import Shape

CHUNK = 1 << 16
"""Elements of a chunk; a multiple of every block."""
BLOCK_BYTES, LEAST_BLOCK = 1 << 14, 128
"""What a program takes at once: at most so many bytes, so that it fits in its registers, at least so many elements."""
LONG_ROWS, SHORT_RUNS, FEW = (16, 256), (256, 16), 64
"""The rows and the elements of each that a program takes at once: of rows whose neighbours in memory are `FEW` at
least, and of others."""

Cut = tuple[int, int, int]
"""A tensor as [before, rows, after] of its segments: see `around`."""


class Launch(NamedTuple):
    """The chunks from `begin` to `end` of a table, which one launch of a kernel takes.

    `rows` is how many of them a program measures at once, 0 for chunks that are no rows; `block` is how many elements.
    """

    begin: int
    end: int
    dtype: torch.dtype
    aligned: bool
    rows: int
    block: int


class ChunkTable(NamedTuple):
    """The chunks of a scope [C, FIELDS], where the partial results of each segment begin [S + 1], and room for them."""

    chunks: torch.Tensor
    launches: list[Launch]
    firsts: torch.Tensor
    tickets: torch.Tensor
    totals: torch.Tensor
    scales: torch.Tensor
    counts: torch.Tensor

    @property
    def segments(self) -> int:
        return len(self.tickets)


class Structure:
    """Tensors of one structure: a table for each scope that was asked for, and their addresses on the device."""

    def __init__(self, signature: Hashable, tensors: Sequence[torch.Tensor]) -> None:
        self.signature = signature
        self.tables: dict[Hashable, ChunkTable] = {}
        self.shapes: dict[Scope, list[Shape]] = {}
        self.sizes = np.array([tensor.nbytes for tensor in tensors], np.int64)
        self._dtypes = [tensor.dtype for tensor in tensors]
        self.holds_float64 = torch.float64 in self._dtypes
        self._device = tensors[0].device
        self._known = np.empty(0, np.int64)
        self._addresses = torch.empty(0, dtype=torch.int64)

    def addresses(self, wanted: np.ndarray) -> torch.Tensor:
        """The addresses on the device, sent there anew where they are others than before; nothing waits for that."""
        if not np.array_equal(wanted, self._known):
            self._known = wanted
            self._addresses = sent(wanted, self._device)
        return self._addresses

    def table_of(self, cuts: Sequence[Cut], together: bool) -> ChunkTable:
        """The table of the tensors, cut so."""
        aligned = (self._known % ALIGNMENT == 0).tolist()
        return table_of(cuts, self._dtypes, aligned, together, self._device)


def sent(numbers: np.ndarray, device: torch.device) -> torch.Tensor:
    """Numbers on a device; nothing waits for them to be there."""
    host = torch.from_numpy(numbers)
    return host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host


def signature_of(tensors: Sequence[torch.Tensor]) -> Hashable:
    """What a structure is known by."""
    return tuple((t.dtype, t.shape, t.data_ptr() % ALIGNMENT, t.device) for t in tensors)


def cuts_of(shapes: Sequence[Sequence[int]], axes: Sequence[Kept | None], parts: Sequence[int]) -> list[Cut]:
    """How tensors of these shapes are cut into rows, each of whose elements has so many parts."""
    cuts = [around(shape, kept) for shape, kept in zip(shapes, axes, strict=True)]
    return [(before, rows, after * each) for (before, rows, after), each in zip(cuts, parts, strict=True)]


def table_of(
    cuts: Sequence[Cut], dtypes: Sequence[torch.dtype], aligned: Sequence[bool], together: bool, device: torch.device
) -> ChunkTable:
    """The table of tensors that are cut so."""
    pieces, kinds, first = [], [], 0
    for tensor, (cut, dtype, straight) in enumerate(zip(cuts, dtypes, aligned, strict=True)):
        piece, rows = chunks_of(cut, tensor, 0 if together else first)
        pieces.append(piece)
        first += cut[1]
        kinds += [(dtype, straight and not rows, rows)] * len(piece)
    chunks, segments = np.concatenate(pieces), 1 if together else first
    flat = np.array([not rows for _, _, rows in kinds])
    chunks[flat, SLOT.value] = np.arange(flat.sum())
    firsts = np.searchsorted(chunks[flat, SEGMENT.value], np.arange(segments + 1))
    order = sorted(range(len(chunks)), key=lambda place: str(kinds[place]))
    chunks, kinds, many = chunks[order], [kinds[place] for place in order], int(flat.sum())
    return ChunkTable(
        sent(chunks, device),
        launches_of(kinds, chunks[:, SIZE.value]),
        sent(firsts, device),
        torch.zeros(segments, dtype=torch.int32, device=device),
        torch.empty(many, dtype=torch.float64, device=device),
        torch.empty(many, dtype=torch.float64, device=device),
        torch.empty(many, dtype=torch.int32, device=device),
    )


def chunks_of(cut: Cut, tensor: int, segment: int) -> tuple[np.ndarray, int]:
    """The chunks of one tensor, and of how many rows each is; 0 where all of it is one segment."""
    before, rows, after = cut
    if rows == 1:
        starts = np.arange(0, max(before * after, 1), CHUNK)
        each, size, length = 0, before * after - starts, CHUNK
    else:
        each = (LONG_ROWS if after >= FEW else SHORT_RUNS)[0]
        starts = np.arange(0, rows, each)
        size, length = np.full(len(starts), before * after), before * after
    chunks = np.zeros((len(starts), FIELDS.value), np.int64)
    chunks[:, TENSOR.value], chunks[:, START.value] = tensor, starts
    chunks[:, SEGMENT.value] = segment + starts * bool(each)
    chunks[:, SIZE.value] = np.minimum(size, length)
    chunks[:, MANY.value] = np.minimum(rows - starts, each) if each else 1
    chunks[:, RUN.value], chunks[:, PERIOD.value] = max(after, 1), rows * after
    return chunks, each


def launches_of(kinds: Sequence[tuple[torch.dtype, bool, int]], sizes: np.ndarray) -> list[Launch]:
    """A launch for each run of chunks of one kind."""
    bounds = [0, *(place for place in range(1, len(kinds)) if kinds[place] != kinds[place - 1]), len(kinds)]
    return [
        Launch(begin, end, *kinds[begin], block=block_of(kinds[begin], int(sizes[begin:end].max())))
        for begin, end in pairwise(bounds)
        if end > begin
    ]


def block_of(kind: tuple[torch.dtype, bool, int], longest: int) -> int:
    """The elements that a program takes at once of chunks of this kind, of which the longest has so many."""
    dtype, _, rows = kind
    if rows:
        return dict((LONG_ROWS, SHORT_RUNS))[rows]
    return min(BLOCK_BYTES // dtype.itemsize, max(LEAST_BLOCK, int(triton.next_power_of_2(max(longest, 1)))))


def parts_of(tensor: torch.Tensor, shape: Sequence[int]) -> int:
    """How many real numbers of `tensor` stand for an element of a gradient of this shape: two of a complex one."""
    return 2 if tensor.dim() > len(shape) else 1
