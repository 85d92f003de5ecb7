# numba types these functions, by rules of its own.
# mypy: ignore-errors

"""The table of a batch of CPU tensors, in compiled code: filling it from Python's list, and walking over it. And the
list itself, of the gradients of many parameters.

A table has one row of ten 64-bit words for each *span*, a run of elements at one address, or a block of columns. A walk
cuts spans into chunks of fixed size, so that results do not depend on the number of threads, and calls a kernel on
each. Whoever finishes the last chunk combines the parts, in the order of the table.

Several threads may walk one table at once: chunks are claimed from a counter in the *head*, which also says what to do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from gradclip.engines.cpu_compile import (
    Code,
    Numbers,
    ObjectFile,
    Signature,
    Target,
    Type,
    Typing,
    Words,
    njit,
    object_of,
)
from gradclip.engines.cpu_layout import (
    ADDRESS,
    BLOCK_BYTES,
    BLOCK_COLUMNS,
    BLOCK_LINES,
    BRAIN,
    BYTES,
    CAPACITY,
    CHANGED,
    CHUNK,
    CHUNK_BYTES,
    CHUNKS,
    CODE,
    CODES,
    COLUMNS,
    COMBINE_COLUMNS,
    DEVICE,
    DLTENSOR,
    DONE,
    ELEMENTS,
    EXCHANGE,
    FLOATING,
    HASH,
    HOW,
    KERNELS,
    KIND,
    LONG_RUN,
    MAX,
    NEXT,
    NOTHING,
    PARAMETER,
    PARAMETERS,
    PART_BYTES,
    PARTS,
    PARTS_USED,
    PITCH,
    REFUSED,
    ROWS,
    ROWWISE,
    RUN,
    SEGMENT,
    SEGMENTS,
    SLOT,
    SPAN_BYTES,
    SPANS,
    SPREAD,
    STEP,
    STRIDE,
    TABLE,
    TOTALS,
    VISIT_COLUMNS,
    WIDTH,
)

# -- Words


@intrinsic
def words(typing: Typing, address: Type) -> Code:
    """The 64-bit words at `address`."""
    return types.CPointer(types.int64)(types.int64), _as_pointer(ir.IntType(64))


@intrinsic
def numbers(typing: Typing, address: Type) -> Code:
    """The fp64 numbers at `address`."""
    return types.CPointer(types.float64)(types.int64), _as_pointer(ir.DoubleType())


def _as_pointer(pointee: ir.Type) -> Callable[..., ir.Value]:
    def generate(context: Target, builder: ir.IRBuilder, signature: Signature, args: Sequence[ir.Value]) -> ir.Value:
        return builder.inttoptr(args[0], pointee.as_pointer())

    return generate


def _call(builder: ir.IRBuilder, address: ir.Value, result: ir.Type, args: list[ir.Value]) -> ir.Value:
    function = ir.FunctionType(result, [ir.IntType(64)] * len(args)).as_pointer()
    return builder.call(builder.inttoptr(address, function), args)


@intrinsic
def call_kernel(typing: Typing, kernel: Type, elements: Type, count: Type, out: Type, parameter: Type) -> Code:
    """Call the kernel at an address; its pointers are passed as 64-bit words, which calls in the same way."""

    def generate(context: Target, builder: ir.IRBuilder, signature: Signature, args: Sequence[ir.Value]) -> ir.Value:
        _call(builder, args[0], ir.VoidType(), list(args[1:]))
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5), generate


@intrinsic
def call_on_columns(
    typing: Typing,
    kernel: Type,
    elements: Type,
    lines: Type,
    columns: Type,
    pitch: Type,
    width: Type,
    out: Type,
    parameter: Type,
) -> Code:
    """The same for a kernel of columns."""

    def generate(context: Target, builder: ir.IRBuilder, signature: Signature, args: Sequence[ir.Value]) -> ir.Value:
        _call(builder, args[0], ir.VoidType(), list(args[1:]))
        return context.get_dummy_value()

    return types.void(*[types.int64] * 8), generate


@intrinsic
def call_for_span(typing: Typing, function: Type, head: Type, span: Type, number: Type) -> Code:
    """Call a function of this module at an address: what few need is compiled for those."""

    def generate(context: Target, builder: ir.IRBuilder, signature: Signature, args: Sequence[ir.Value]) -> ir.Value:
        _call(builder, args[0], ir.VoidType(), [*(builder.ptrtoint(one, args[0].type) for one in args[1:3]), args[3]])
        return context.get_dummy_value()

    return types.void(function, head, span, number), generate


@intrinsic
def call_exchange(typing: Typing, function: Type, tensor: Type, out: Type) -> Code:
    """Call `int DLPackDLTensorFromPyObjectNoSync(void*, DLTensor*)` at an address."""

    def generate(context: Target, builder: ir.IRBuilder, signature: Signature, args: Sequence[ir.Value]) -> ir.Value:
        return _call(builder, args[0], ir.IntType(32), list(args[1:]))

    return types.int32(types.int64, types.int64, types.int64), generate


@intrinsic
def add_atomically(typing: Typing, address: Type, amount: Type) -> Code:
    """Add to the word at `address`; returns what it was. What threads wrote before it, the next adder sees."""

    def generate(context: Target, builder: ir.IRBuilder, signature: Signature, args: Sequence[ir.Value]) -> ir.Value:
        pointer = builder.inttoptr(args[0], ir.IntType(64).as_pointer())
        return builder.atomic_rmw("add", pointer, args[1], "acq_rel")

    return types.int64(types.int64, types.int64), generate


@intrinsic
def call_getter(typing: Typing, getter: Type, owner: Type, closure: Type) -> Code:
    """Call the `getter` of an attribute at an address; what it returns is a new reference, or 0 with an error set."""

    def generate(context: Target, builder: ir.IRBuilder, signature: Signature, args: Sequence[ir.Value]) -> ir.Value:
        return _call(builder, args[0], ir.IntType(64), list(args[1:]))

    return types.int64(types.int64, types.int64, types.int64), generate


list_size = types.ExternalFunction("PyList_Size", types.intp(types.intp))
list_item = types.ExternalFunction("PyList_GetItem", types.intp(types.intp, types.intp))
list_put = types.ExternalFunction("PyList_SetItem", types.int32(types.intp, types.intp, types.intp))
dict_of = types.ExternalFunction("_PyObject_GetDictPtr", types.intp(types.intp))
dict_has = types.ExternalFunction("PyDict_Contains", types.int32(types.intp, types.intp))
clear_error = types.ExternalFunction("PyErr_Clear", types.void())


# -- Filling


@njit
def shift_of(code: int) -> int:
    """log2 of the bytes of an element: 1, 1, 2, 3, and so again for columns."""
    found = code & 3
    return found if found > 1 else 1  # `max` would be a function more to compile


@njit
def code_of(dtype: int) -> int:
    """The type code of a DLDataType (code, bits, lanes), packed in the low 32 bits of a word."""
    kind, bits, lanes = dtype & 255, (dtype >> 8) & 255, (dtype >> 16) & 65535
    if kind == BRAIN and bits == 16 and lanes == 1:
        return 1
    if kind != FLOATING or lanes != 1:
        return REFUSED
    return 0 if bits == 16 else 2 if bits == 32 else 3 if bits == 64 else REFUSED


@njit
def count_of(axes: int, shape: Words, strides: Words) -> int:
    """The number of elements of a row-major tensor; REFUSED if its strides say that it is none."""
    count = 1
    for axis in range(axes - 1, -1, -1):
        if shape[axis] != 1 and strides[axis] != count:
            count = REFUSED if count != 0 else 0
            break
        count *= shape[axis]
    for axis in range(axes):
        if shape[axis] == 0:
            return 0
    return count


@njit
def describe(head: Words, tensor: int, dltensor: int, span: Words) -> bool:
    """Fill `span` from the DLTensor of a plain tensor; False if it is to be asked in Python instead.

    A DLTensor is data, (device type, device), (axes, dtype), shape, strides, offset in bytes: six words.
    """
    kind = words(tensor)[1]  # PyObject.ob_type: exactly these classes, for another subclass may mean anything
    if kind != head[KIND] and kind != head[PARAMETER]:
        return False
    if call_exchange(head[EXCHANGE], tensor, dltensor) != 0:
        clear_error()
        return False
    dl = words(dltensor)
    axes, code = dl[2] & 0xFFFFFFFF, code_of(dl[2] >> 32)
    if dl[1] != head[DEVICE] or code == REFUSED:
        return False
    shape = words(dl[3])
    count = count_of(axes, shape, words(dl[4]))
    # One element: the only dense tensor on which PyTorch leaves a lazy sign, invisible here, in ordinary use.
    if count == 1 or count == REFUSED or (dl[0] == 0 and count > 0):
        return False
    put(head, span, dl[0] + dl[5], count, code, shape[0] if axes >= 2 else 1, mixed(axes, shape))
    return True


@njit
def mixed(axes: int, shape: Words) -> int:
    """A number that another shape hardly has: 64 bits of its axes."""
    mix = axes
    for axis in range(axes):
        mix = (mix ^ shape[axis]) * HASH
        mix ^= (mix >> 32) & 0xFFFFFFFF
    return mix


@njit
def put(head: Words, span: Words, address: int, count: int, code: int, rows: int, mix: int) -> None:
    """Fill the words of a tensor, and note whether they were others; in new memory they are anything."""
    known = span[ADDRESS] == address and span[ELEMENTS] == count and span[CODE] == code
    if not known or span[ROWS] != rows or span[PITCH] != mix:
        head[CHANGED] = 1
        span[ADDRESS], span[ELEMENTS], span[CODE], span[ROWS], span[PITCH] = address, count, code, rows, mix


@njit
def row_of(head: Words, span: int) -> Words:
    """The words of a span."""
    return words(head[TABLE] + span * SPAN_BYTES)


@njit
def fill(tensors: int, address: int) -> int:
    """Fill the table from a Python list; returns how many tensors are left to Python, -1 if the table is too small."""
    head = words(address)
    count = list_size(tensors)
    if count > head[CAPACITY]:
        return -1
    refused = 0
    head[CHANGED] = 1 if count != head[SPANS] else 0
    for i in range(count):
        span = row_of(head, i)
        if not describe(head, list_item(tensors, i), address + 8 * DLTENSOR, span):
            put(head, span, 0, 0, REFUSED, 1, -1)
            refused += 1
    if head[CHANGED] != 0:
        head[SPANS] = count
        number(address)
    return refused


@njit
def number(address: int) -> None:
    """Number the chunks, parts and segments of a table whose spans are one segment each, and sum up its sizes."""
    head = words(address)
    chunks, codes, size, segments = 0, 0, 0, 0
    for i in range(head[SPANS]):
        span = row_of(head, i)
        shift = shift_of(span[CODE])
        step = CHUNK_BYTES >> shift
        span[CHUNK], span[SLOT], span[SEGMENT], span[STEP] = chunks, chunks, i, step
        chunks += (span[ELEMENTS] + step - 1) // step
        size += span[ELEMENTS] << shift
        segments += span[ROWS]
        codes |= 1 << span[CODE] if span[CODE] >= 0 else 0
    row_of(head, head[SPANS])[CHUNK] = chunks
    head[CHUNKS], head[CODES], head[BYTES], head[SEGMENTS] = chunks, codes, size, segments


@njit
def split(address: int, source: int, cuts: int) -> int:
    """Fill the table with the rows of `source`; returns the number of parts. It must have room for all rows.

    `cuts` is the address of two words for each tensor: how often all its rows come one after another, and their number;
    0 where each has them once, as the rows of a matrix, and as many as ROWS says.
    """
    head, tensors = words(address), words(source)
    head[SPANS], head[CHUNKS], head[PARTS_USED], head[SEGMENTS], head[CODES] = 0, 0, 0, 0, 0
    for i in range(tensors[SPANS]):
        tensor = row_of(tensors, i)
        lines = words(cuts)[2 * i] if cuts else 1
        rows = words(cuts)[2 * i + 1] if cuts else tensor[ROWS]
        width = tensor[ELEMENTS] // max(lines * rows, 1)
        if lines == 1:
            split_rows(head, tensor, rows)
        elif width >= LONG_RUN:
            split_runs(head, tensor, lines, rows, width)
        else:
            split_columns(head, tensor, lines, rows, width)
        head[SEGMENTS] += rows
    row_of(head, head[SPANS])[CHUNK] = head[CHUNKS]
    head[BYTES] = tensors[BYTES]
    return head[PARTS_USED]


@njit
def next_span(head: Words, tensor: Words, begin: int, elements: int, code: int, step: int) -> Words:
    """A new span, of `elements` of a tensor from element `begin` on, with chunks of `step`."""
    span = row_of(head, head[SPANS])
    span[ADDRESS], span[ELEMENTS], span[CODE] = tensor[ADDRESS] + (begin << shift_of(code)), elements, code
    span[CHUNK], span[SLOT], span[STEP] = head[CHUNKS], head[PARTS_USED], step
    head[SPANS] += 1
    head[CHUNKS] += (elements + step - 1) // step
    head[CODES] |= 1 << code
    return span


@njit
def split_rows(head: Words, tensor: Words, rows: int) -> None:
    """A span for each row that is longer than a chunk, else one for all rows, which needs no parts."""
    length = tensor[ELEMENTS] // max(rows, 1)
    most = CHUNK_BYTES >> shift_of(tensor[CODE])
    if length > most:
        split_runs(head, tensor, 1, rows, length)
        return
    span = next_span(head, tensor, 0, tensor[ELEMENTS], tensor[CODE], max(most // max(length, 1) * length, 1))
    span[ROWS], span[SEGMENT] = rows, head[SEGMENTS]
    head[PARTS_USED] += 1 if rows == 1 else 0


@njit
def split_runs(head: Words, tensor: Words, lines: int, rows: int, length: int) -> None:
    """A span for each run of neighbours in one row."""
    most = CHUNK_BYTES >> shift_of(tensor[CODE])
    for k in range(lines * rows):
        span = next_span(head, tensor, k * length, length, tensor[CODE], most)
        span[ROWS], span[SEGMENT] = 1, head[SEGMENTS] + k % rows
        head[PARTS_USED] += (length + most - 1) // most


@njit
def split_columns(head: Words, tensor: Words, lines: int, rows: int, width: int) -> None:
    """A span for each block of columns, with parts for two numbers of each column of each of its chunks."""
    code, wanted = tensor[CODE] + COLUMNS, max(BLOCK_COLUMNS // width, 1)
    for first in range(0, rows, wanted):
        here = min(wanted, rows - first)
        columns = here * width
        step = max((BLOCK_BYTES >> shift_of(code)) // columns, BLOCK_LINES) * columns
        span = next_span(head, tensor, first * width, lines * columns, code, step)
        span[ROWS], span[SEGMENT], span[PITCH], span[WIDTH] = here, head[SEGMENTS] + first, rows * width, width
        head[PARTS_USED] += (head[CHUNKS] - span[CHUNK]) * parts_of(columns)


@njit
def parts_of(columns: int) -> int:
    """The parts that have room for two numbers of each column."""
    return (columns + 1) // 2


@njit
def overlap(address: int) -> int:
    """Whether two spans of a table have memory together. It compares all pairs: for a few spans."""
    head = words(address)
    for i in range(head[SPANS]):
        one = row_of(head, i)
        for j in range(i):
            other = row_of(head, j)
            if one[ADDRESS] < end_of(other) and other[ADDRESS] < end_of(one):
                return 1
    return 0


@njit
def end_of(span: Words) -> int:
    """The address where a span of a table ends."""
    return span[ADDRESS] + (span[ELEMENTS] << shift_of(span[CODE]))


@njit
def collect(owners: int, found: int, flag: int, address: int) -> int:
    """Put what the getter of an attribute gives of each owner into the list `found`, which is as long.

    Returns how often that is None. An owner of another class, or with an entry `flag` in its dict, is REFUSED: Python
    is to ask for all of them. At `address` are the two classes, the getter, its closure and None.
    """
    known, missing = words(address), 0
    for i in range(list_size(found)):
        owner = list_item(owners, i)
        if owner == 0 or (words(owner)[1] != known[0] and words(owner)[1] != known[1]):
            return REFUSED
        entries = dict_of(owner)
        if entries != 0 and words(entries)[0] != 0 and dict_has(words(entries)[0], flag) != 0:
            return REFUSED
        value = call_getter(known[2], owner, known[3])
        missing += value == known[4]
        if value == 0 or list_put(found, i, value) != 0:
            return REFUSED
    return missing


# -- Walking


@njit
def find(head: Words, chunk: int) -> int:
    """The span that `chunk` lies in: the last one that begins at or before it."""
    low, high = 0, head[SPANS]
    while high - low > 1:
        middle = (low + high) // 2
        if row_of(head, middle)[CHUNK] <= chunk:
            low = middle
        else:
            high = middle
    return low


@njit
def rows_in(head: Words, span: Words) -> int:
    """The number of segments that `span` stands for in this walk."""
    return span[ROWS] if head[ROWWISE] else 1


@njit
def visit(head: Words, span: Words, chunk: int) -> None:
    """Call the kernel on one chunk, or on each row of it where rows are segments."""
    if span[CODE] >= COLUMNS:
        call_for_span(head[VISIT_COLUMNS], head, span, chunk)
        return
    begin = (chunk - span[CHUNK]) * span[STEP]
    left = span[ELEMENTS] - begin
    count = left if left < span[STEP] else span[STEP]
    rows, unit, first = rows_in(head, span), count, span[SEGMENT]
    out = head[PARTS] + PART_BYTES * (span[SLOT] + chunk - span[CHUNK])
    if rows > 1:  # no other chunk has anything of these rows: what is found is their total
        unit = span[ELEMENTS] // rows
        first += begin // unit
        out = head[TOTALS] + PART_BYTES * first
    shift = shift_of(span[CODE])
    kernel = words(head[KERNELS])[span[CODE]]
    for k in range(count // unit):
        address = span[ADDRESS] + ((begin + k * unit) << shift)
        parameter = head[PARAMETERS] + 8 * head[STRIDE] * (first + k)
        call_kernel(kernel, address, unit, out + PART_BYTES * k, parameter)


@njit
def visit_columns(head: Words, span: Words, chunk: int) -> None:
    """Call the kernel on the lines of one chunk."""
    columns, number = span[ROWS] * span[WIDTH], chunk - span[CHUNK]
    begin = number * (span[STEP] // columns)
    left = span[ELEMENTS] - number * span[STEP]
    lines = (left if left < span[STEP] else span[STEP]) // columns
    address = span[ADDRESS] + ((begin * span[PITCH]) << shift_of(span[CODE]))
    out = head[PARTS] + PART_BYTES * (span[SLOT] + number * parts_of(columns))
    parameter = head[PARAMETERS] + 8 * head[STRIDE] * span[SEGMENT]
    kernel = words(head[KERNELS])[span[CODE]]
    call_on_columns(kernel, address, lines, columns, span[PITCH], span[WIDTH], out, parameter)


@njit
def larger(a: float, b: float) -> float:
    return b if b > a or b != b else a


@njit
def merge(total: Numbers, part: Numbers, how: int) -> None:
    """Add a part to a total: its two totals by sum or by maximum, in which a NaN stays, its two counts by sum."""
    if how == MAX:
        total[0], total[1] = larger(total[0], part[0]), larger(total[1], part[1])
    else:
        total[0], total[1] = total[0] + part[0], total[1] + part[1]
    total[2], total[3] = total[2] + part[2], total[3] + part[3]


@njit
def combine(head: Words) -> None:
    """Parts become totals, which were zero, in the order of the table."""
    for i in range(head[SPANS]):
        span = row_of(head, i)
        chunks = row_of(head, i + 1)[CHUNK] - span[CHUNK]
        if span[CODE] >= COLUMNS:
            call_for_span(head[COMBINE_COLUMNS], head, span, chunks)
        elif rows_in(head, span) <= 1:
            for k in range(chunks):
                part = numbers(head[PARTS] + PART_BYTES * (span[SLOT] + k))
                merge(numbers(head[TOTALS] + PART_BYTES * span[SEGMENT] * head[SPREAD]), part, head[HOW])


@njit
def combine_columns(head: Words, span: Words, chunks: int) -> None:
    columns = span[ROWS] * span[WIDTH]
    for k in range(chunks):
        found = numbers(head[PARTS] + PART_BYTES * (span[SLOT] + k * parts_of(columns)))
        for row in range(span[ROWS]):
            total = numbers(head[TOTALS] + PART_BYTES * (span[SEGMENT] + row))
            total[0] = larger(total[0], found[row]) if head[HOW] == MAX else total[0] + found[row]
            total[2] += found[columns + row]


@njit
def walk(address: int) -> None:
    """Claim runs of chunks until none is left; to be called by as many threads as there are at hand."""
    head = words(address)
    chunks, run = head[CHUNKS], head[RUN]
    begin = add_atomically(address + 8 * NEXT, run)
    while begin < chunks:
        end = begin + run if begin + run < chunks else chunks
        i = find(head, begin)
        for chunk in range(begin, end):
            while row_of(head, i + 1)[CHUNK] <= chunk:
                i += 1
            visit(head, row_of(head, i), chunk)
        if add_atomically(address + 8 * DONE, end - begin) + end - begin == chunks and head[HOW] != NOTHING:
            combine(head)
        begin = add_atomically(address + 8 * NEXT, run)


# -- Compiling

OF_SPAN = types.void(*[types.CPointer(types.int64)] * 2, types.int64)

SIGNATURES = {
    "collect": types.int64(types.int64, types.int64, types.int64, types.int64),
    "combine_columns": OF_SPAN,
    "fill": types.int64(types.int64, types.int64),
    "number": types.void(types.int64),
    "overlap": types.int64(types.int64),
    "split": types.int64(types.int64, types.int64, types.int64),
    "visit_columns": OF_SPAN,
    "walk": types.void(types.int64),
}


def compiled(name: str, code: int = 0) -> ObjectFile:
    """A function of `SIGNATURES` as a C function; there is one for all types."""
    return object_of(SIGNATURES[name], globals()[name].py_func)
