"""How the table of a batch of CPU tensors lies in memory, and the numbers by which compiled code is told what to do.

Compiled code and the Python around it both read this; nothing here needs a compiler.
"""

ADDRESS, ELEMENTS, CODE, ROWS, CHUNK, SLOT, SEGMENT, STEP, PITCH, WIDTH = range(10)
"""Words of a span: where, how many, type code, rows of the tensor, first chunk, part and segment, chunk size. Of
columns also the elements from one line to the next, and the columns of a row; of a tensor a number for its shape."""

SPAN_WORDS = 10
COLUMNS = 4
"""Added to the type code of a span of columns."""

TABLE, SPANS, CHUNKS, PARTS, ROWWISE, KERNELS, PARAMETERS, STRIDE, SPREAD, HOW, TOTALS, RUN = range(12)
NEXT, DONE = 20, 28  # each in a cache line of its own: threads fight for them
RESULT = 36
PARTS_USED, KIND, PARAMETER, EXCHANGE, CAPACITY, CODES, BYTES, SEGMENTS = range(40, 48)
DLTENSOR, ARGUMENT, CHANGED, DEVICE, VISIT_COLUMNS, COMBINE_COLUMNS = 48, 54, 58, 59, 60, 61
HEAD_WORDS = 62
SPAN_BYTES, PART_BYTES = 8 * SPAN_WORDS, 32
"""Words of a head. Up to PARTS and from PARTS_USED on they are set when the table is filled, the others for each walk:

TABLE, SPANS, CHUNKS    address of the table, number of spans and of chunks
PARTS                   address of the parts, four fp64 numbers each
ROWWISE                 1 if each row of a span is a segment, 0 if a span is one segment
KERNELS                 address of eight kernels, one for each type code, runs first and then columns
PARAMETERS, STRIDE      address of the kernels' parameters; fp64 numbers from one segment's to the next one's
SPREAD, HOW, TOTALS     1: a total for each segment, 0: one for all; NOTHING, SUM or MAX; address of the totals
RUN, NEXT, DONE         chunks in a claim; next chunk to claim; chunks done
RESULT                  room for one total
PARTS_USED              the number of parts, where rows are segments
KIND, PARAMETER         the types of a plain tensor and of a plain parameter
EXCHANGE                the function that describes one
CAPACITY, CODES         rows that the table has room for; set of the type codes that occur in it
BYTES, SEGMENTS         sums over the tensors of their bytes and of their rows
DLTENSOR                room for the description of one tensor
ARGUMENT                room for the parameters that all segments share, four fp64 numbers
CHANGED                 whether the table is another one than it was before it was filled last
DEVICE                  where its tensors are: DLPack's type of the device, and its number in the upper half
VISIT_COLUMNS and COMBINE_COLUMNS: the functions with these names, in a table that has columns
"""

NOTHING, SUM, MAX = range(3)
REFUSED = -1
"""Type code of a tensor whose elements could not be reached."""

CHUNK_BYTES = 1 << 18
BLOCK_COLUMNS, BLOCK_BYTES, BLOCK_LINES = 1 << 16, 1 << 21, 64
"""The most columns of a block, the bytes of a chunk of it, and its fewest lines: what is found in it is short then."""

LONG_RUN = 1 << 10
"""Neighbours of one row that are worth a chunk of their own."""

HASH = 0x1E3779B97F4A7C15
"""An odd number near 2^61 over the golden ratio: multiplied by it, addresses spread over the upper bits."""

CPU_DEVICE, FLOATING, BRAIN = 1, 2, 4
"""DLPack's kDLCPU (the first one), kDLFloat and kDLBfloat."""

RECIPROCAL, SQRT, TANH, NORMALIZE, ZERO = range(5)
"""Kinds of elementwise responses, for the kernel `respond`."""
