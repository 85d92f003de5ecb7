"""Where the elements of a list of CPU tensors lie: the table that the kernels walk over.

The fast way asks the framework itself, through the table of C functions that DLPack 1.3 defines for this purpose
(docs/decisions/0010). It accepts plain dense tensors alone. All others, and all tensors of a framework that offers no
such table, are asked in Python, through the framework's layout adapter. `CpuBatch.via` says which way was taken.
"""

from __future__ import annotations

import ctypes
import functools
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal, Protocol

import numpy as np

from gradclip.engines import cpu_layout as layout
from gradclip.engines.base import (
    FIRST,
    Gradient,
    Kept,
    UnsupportedGradient,
    Values,
    around,
    row_axes,
    rows_first,
)
from gradclip.engines.cpu_code import address_of
from gradclip.engines.overlap import apart, repeats, strided
from gradclip.rules.scope import Axes, Scope, rows_of
from gradclip.rules.segments import Shape

Via = Literal["dlpack", "python"]

CODE_OF_NAME = {"float16": 0, "bfloat16": 1, "float32": 2, "float64": 3}
FEW = 64
"""Up to so many spans comparing all pairs, which is compiled, takes less time than calling NumPy."""
BYTES_OF_CODE = np.array([2, 2, 4, 8])
PROTOTYPES = {
    "collect": ctypes.PYFUNCTYPE(ctypes.c_int64, *[ctypes.py_object] * 3, ctypes.c_int64),
    "fill": ctypes.PYFUNCTYPE(ctypes.c_int64, ctypes.py_object, ctypes.c_int64),
    "overlap": ctypes.PYFUNCTYPE(ctypes.c_int64, ctypes.c_int64),
    "number": ctypes.PYFUNCTYPE(None, ctypes.c_int64),
    "split": ctypes.PYFUNCTYPE(ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64),
    "walk": ctypes.PYFUNCTYPE(None, ctypes.c_int64),
}
API_CAPSULE = b"dlpack_exchange_api"
API_MAJOR, API_MINOR = 1, 3
API_DESCRIBE_SLOT = 5
"""Words before `dltensor_from_py_object_no_sync`: version, previous table, and three other functions."""


class Payload(Protocol):
    """A contiguous real tensor that stands for a gradient: see the framework's layout adapter."""

    @property
    def tensor(self) -> Gradient: ...
    @property
    def magnitudes(self) -> Gradient: ...
    @property
    def writeback(self) -> Callable[[], object] | None: ...
    @property
    def order(self) -> Sequence[int] | None: ...
    def straight(self) -> Payload: ...


class Adapter(Protocol):
    """What a CPU engine needs to know of a framework: a module of functions."""

    @property
    def __name__(self) -> str: ...  # by which it is imported
    @property
    def TENSOR(self) -> type: ...  # the class of plain tensors; a subclass may mean anything
    @property
    def PARAMETER(self) -> type: ...  # the class of plain parameters
    @property
    def VALUES(self) -> Values: ...
    def unit_axis(self, shape: Shape) -> Axes: ...
    def memory(self, tensor: Gradient) -> np.ndarray: ...  # see `overlap.strided`
    def describable(self, tensors: Sequence[Gradient]) -> bool: ...  # may its C function be asked about all of them
    def payload(self, gradient: Gradient, index: int) -> Payload: ...
    def written(self, tensors: Sequence[Gradient]) -> None: ...
    def threads(self) -> int: ...
    def on_cpu(self, tensor: Gradient) -> bool: ...


class Table:
    """The memory of one table: its head, its spans and its parts; and what follows from them, until they change.

    `shapes` are those of the tensors, `axes` those of the rows by scope, `rows_first` the shapes with these in front,
    `rows` the table cut into rows, and `overlaps` says whether two spans have memory together.
    """

    __slots__ = (
        *("address", "axes", "head", "numbers", "overlaps", "owner", "parts"),
        *("rows", "rows_first", "shapes", "spans", "words"),
    )
    axes: dict[Scope, list[Kept | None]]
    rows_first: dict[Scope, list[Shape]]
    rows: dict[Scope, Table]
    shapes: list[Shape] | None
    overlaps: bool | None

    def __init__(
        self,
        kind: int = 0,
        parameter: int = 0,
        exchange: int = 0,
        owner: Gatherer | None = None,
        device: int = layout.CPU_DEVICE,
    ) -> None:
        self.owner = owner
        self.head = np.zeros(layout.HEAD_WORDS, np.int64)
        self.words = self.head.data
        self.numbers = self.head.view(np.float64).data
        self.address = self.head.ctypes.data
        self.words[layout.KIND], self.words[layout.PARAMETER], self.words[layout.EXCHANGE] = kind, parameter, exchange
        self.words[layout.DEVICE] = device
        self.reserve_spans(64)
        self.reserve_parts(64)
        self.changed()

    def changed(self) -> None:
        """Forget what followed from what was here before."""
        self.shapes, self.axes, self.rows_first, self.rows, self.overlaps = None, {}, {}, {}, None

    def reserve_spans(self, spans: int) -> None:
        """Make room for `spans` rows and the one that closes the table."""
        self.spans = np.empty((spans + 1, layout.SPAN_WORDS), np.int64)
        self.words[layout.TABLE], self.words[layout.CAPACITY] = self.spans.ctypes.data, spans

    def reserve_parts(self, parts: int) -> None:
        self.parts = np.empty((parts, 4), np.float64)
        self.words[layout.PARTS] = self.parts.ctypes.data

    def number(self) -> None:
        """Number the chunks after spans were changed by hand."""
        entry("number")(self.address)
        self.fit()

    def has_overlap(self) -> bool:
        """Whether two spans have memory together: all pairs of a few are compared, and of many each with the next."""
        if self.overlaps is None:
            few = self.words[layout.SPANS] <= FEW
            self.overlaps = bool(entry("overlap")(self.address)) if few else not apart(*self.extents())
        return self.overlaps

    def extents(self) -> tuple[np.ndarray, np.ndarray]:
        """The addresses where the spans begin, and where they end."""
        spans = self.spans[: self.words[layout.SPANS]]
        starts = spans[:, layout.ADDRESS]
        return starts, starts + spans[:, layout.ELEMENTS] * BYTES_OF_CODE[spans[:, layout.CODE]]

    def fit(self) -> None:
        """Make room for a part for each chunk."""
        if self.words[layout.CHUNKS] > len(self.parts):
            self.reserve_parts(2 * self.words[layout.CHUNKS])


class CpuBatch:
    """The gradients of a step as the CPU engine sees them. It borrows its table; the next batch gets it back."""

    __slots__ = ("_magnitudes", "_memory", "_tables", "_unit_axis", "payloads", "sources", "table", "via")

    def __init__(self, table: Table, sources: list[Gradient], via: Via, tables: list[Table], adapter: Adapter) -> None:
        self.table, self.sources, self.via, self._tables = table, sources, via, tables
        self._unit_axis, self._memory = adapter.unit_axis, adapter.memory
        self.payloads: dict[int, Payload] = {}
        self._magnitudes: Table | None = None

    def __del__(self) -> None:
        self._tables.append(self.table)

    def __len__(self) -> int:
        return len(self.sources)

    @property
    def bytes(self) -> int:
        """The bytes that one read of the batch moves."""
        return int(self.table.words[layout.BYTES])

    @property
    def complex(self) -> list[int]:
        """The places of complex gradients, which have magnitudes beside their real payload."""
        return [index for index, payload in self.payloads.items() if payload.magnitudes is not None]

    def repeated(self) -> set[int]:
        """The places of tensors whose memory an earlier one has; raises where two have a part together."""
        copies = [index for index, payload in self.payloads.items() if payload.writeback is not None]
        if not copies and not self.table.has_overlap():
            return set()
        starts, ends = self.table.extents()
        memories = [strided(int(start), (int(end - start),), (1,), 1) for start, end in zip(starts, ends, strict=True)]
        for index in copies:
            if not is_sparse(self.sources[index]):
                memories[index] = self._memory(self.sources[index])
        return repeats(memories)

    def shapes(self) -> list[Shape]:
        table = self.table
        if table.shapes is None:
            table.shapes = [tuple(source.shape) for source in self.sources]
            for index, payload in self.payloads.items():
                table.shapes[index] = shape_of(payload)
        return table.shapes

    def magnitudes(self) -> Table:
        """The table for norms that cannot be taken of real and imaginary parts one by one."""
        if self._magnitudes is None:
            self._magnitudes = self._with_magnitudes() if self.payloads and self.complex else self.table
        return self._magnitudes

    def axes(self, scope: Scope) -> list[Kept | None]:
        """The axes of the rows of each gradient."""
        known = self.table.axes
        if scope not in known:
            known[scope] = row_axes(scope, self.shapes(), self._unit_axis)
        return known[scope]

    def rows_first(self, scope: Scope) -> list[Shape]:
        """The shapes with the number of rows in front."""
        known = self.table.rows_first
        if scope not in known:
            known[scope] = rows_first(self.shapes(), self.axes(scope))
        return known[scope]

    def straighten(self, scope: Scope) -> None:
        """Copy gradients whose rows are no runs of memory, because it has other axes between theirs."""
        axes = self.axes(scope)
        mixed = [index for index, payload in self.payloads.items() if _is_mixed(axes[index], payload.order)]
        for index in mixed:
            payload = self.payloads[index] = self.payloads[index].straight()
            place(self.table, index, payload.tensor, shape_of(payload))
        if mixed:
            self.table.changed()
            self._magnitudes = None

    def rows(self, table: Table, scope: Scope) -> Table:
        """`table` cut into the rows of `scope`."""
        if scope not in table.rows:
            rows = Table()
            cuts = self._cuts(self.axes(scope))
            number = table.words[layout.SEGMENTS] if cuts is None else int(cuts[:, 1].sum())
            rows.reserve_spans(len(self) + number + (0 if cuts is None else self.bytes // (2 * layout.LONG_RUN)))
            address = 0 if cuts is None else cuts.ctypes.data
            rows.reserve_parts(max(entry("split")(rows.address, table.address, address), 1))
            rows.words[layout.ROWWISE] = 1
            if rows.words[layout.CODES] >> layout.COLUMNS:
                rows.words[layout.VISIT_COLUMNS] = address_of("cpu_table", "visit_columns")
                rows.words[layout.COMBINE_COLUMNS] = address_of("cpu_table", "combine_columns")
            table.rows[scope] = rows
        return table.rows[scope]

    def _cuts(self, axes: Sequence[Kept | None]) -> np.ndarray | None:
        """[T, 2]: how often all the rows of a tensor come one after another, and their number; None if once for all."""
        if all(kept is None or kept == FIRST for kept in axes):
            return None
        cuts = []
        for index, (shape, kept) in enumerate(zip(self.shapes(), axes, strict=True)):
            order = self.payloads[index].order if index in self.payloads else None
            if order is not None and kept:
                shape, kept = tuple(shape[place] for place in order), _in_memory(kept, order)
            before, rows, after = around(shape, kept)
            cuts.append((before if rows > 1 and before * after else 1, rows))
        return np.array(cuts, np.int64)

    def _with_magnitudes(self) -> Table:
        table = Table()
        table.reserve_spans(len(self))
        table.words[layout.SPANS] = len(self)
        table.spans[: len(self)] = self.table.spans[: len(self)]
        for index in self.complex:
            place(table, index, self.payloads[index].magnitudes, shape_of(self.payloads[index]))
        table.number()
        return table


class Gatherer:
    """Makes batches; the tables of batches that are gone are used again, by those of the same layout if it has some."""

    def __init__(self, adapter: Adapter, via: Via | None = None) -> None:
        exchange = exchange_function(adapter.TENSOR)
        if via == "dlpack" and not exchange:
            raise RuntimeError(f"{adapter.TENSOR.__module__} offers no DLPack C exchange API of version {API_MAJOR}")
        self.via: Via = via or ("dlpack" if exchange else "python")
        self._exchange = exchange if self.via == "dlpack" else 0
        self._kinds = id(adapter.TENSOR), id(adapter.PARAMETER)
        self._payload, self._adapter = adapter.payload, adapter
        self._describable = adapter.describable
        self._tables: list[Table] = []
        self._fill = entry("fill")

    def __call__(self, tensors: list[Gradient], tables: list[Table] | None = None) -> CpuBatch:
        tables = self._tables if tables is None else tables
        try:
            table = tables.pop()  # one operation under the GIL: two threads never get the same table
        except IndexError:
            table = Table(*self._kinds, self._exchange, self)
        if table.owner is not self:
            return self(tensors, tables)  # it was of another framework, and is dropped
        via: Via = "dlpack" if self._exchange and self._describable(tensors) else "python"
        batch = CpuBatch(table, tensors, via, tables, self._adapter)
        left = self._fill(tensors, table.address) if via == "dlpack" else len(tensors)
        if left or via == "python":
            self._ask(batch, left)
        elif table.words[layout.CHANGED]:
            table.changed()
            table.fit()
        return batch

    def _ask(self, batch: CpuBatch, left: int) -> None:
        """Ask in Python for what `fill` left, after making room if it found too little."""
        table, count = batch.table, len(batch)
        table.changed()
        if table.words[layout.CAPACITY] < count:
            table.reserve_spans(2 * count)
            left = self._fill(batch.sources, table.address) if batch.via == "dlpack" else count
        if batch.via == "python":
            table.words[layout.SPANS] = count
            table.spans[:count, layout.CODE] = layout.REFUSED
        if left:
            for index in np.flatnonzero(table.spans[:count, layout.CODE] == layout.REFUSED).tolist():
                payload = batch.payloads[index] = self._payload(batch.sources[index], index)
                place(table, index, payload.tensor, shape_of(payload))
        table.number()


def shape_of(payload: Payload) -> Shape:
    """The shape of the gradient as measured: without the axis of real and imaginary parts."""
    shape = tuple((payload.tensor if payload.magnitudes is None else payload.magnitudes).shape)
    order = payload.order
    return shape if order is None else tuple(shape[order.index(axis)] for axis in range(len(shape)))


def _in_memory(kept: Kept, order: Sequence[int]) -> Kept:
    """Where the axes `kept` are in the `order` of memory."""
    return tuple(map(order.index, kept))


def _is_mixed(kept: Kept | None, order: Sequence[int] | None) -> bool:
    """Whether the axes `kept` are no neighbours in memory, or have another order there."""
    places = _in_memory(kept, order) if kept and order is not None else ()
    return any(after - before != 1 for before, after in pairwise(places))


def place(table: Table, index: int, tensor: Gradient, shape: tuple[int, ...]) -> None:
    """Put a contiguous `tensor` into the table; its rows are those of `shape`."""
    code = CODE_OF_NAME[str(tensor.dtype).rpartition(".")[2]]
    try:
        address = tensor.data_ptr()
    except RuntimeError:  # a tensor without a storage of its own, as inside torch.func
        address = 0
    elements = math.prod(tensor.shape)
    if elements and not address:
        raise UnsupportedGradient(index, f"it has no memory that could be read (it is a {type(tensor).__name__})")
    table.spans[index, :4] = address, elements, code, rows_of(shape)


def is_sparse(source: Gradient) -> bool:
    """Whether a gradient has several arrays, and so no memory of its own."""
    return getattr(source, "is_sparse", False) is True


@functools.cache
def exchange_function(kind: type) -> int:
    """The address of the function that describes a plain tensor of class `kind`; 0 if there is none to rely on."""
    capsule = getattr(kind, "__dlpack_c_exchange_api__", None)
    if capsule is None or not type_is_second_word():
        return 0
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    address = pointer(capsule, API_CAPSULE)
    major, minor = (ctypes.c_uint32 * 2).from_address(address)
    if major != API_MAJOR or minor < API_MINOR:
        return 0
    return (ctypes.c_int64 * (API_DESCRIBE_SLOT + 1)).from_address(address)[API_DESCRIBE_SLOT]


def type_is_second_word() -> bool:
    """Whether objects begin with a count and a type: not so in free-threaded and tracing builds of CPython."""
    probe = object()
    return ctypes.c_ssize_t.from_address(id(probe) + 8).value == id(object)


@functools.cache
def entry(name: Literal["collect", "fill", "number", "overlap", "split", "walk"]) -> Callable[..., int]:
    """A function of `cpu_table`, to be called under the GIL: two of them read Python objects, the others are short."""
    return PROTOTYPES[name](address_of("cpu_table", name))
