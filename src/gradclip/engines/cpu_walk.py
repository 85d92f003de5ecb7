"""Walking over a table with as many threads as it is worth: those that the framework has already (decision 0011)."""

from __future__ import annotations

import ctypes
import functools
import os
import struct
from collections.abc import Callable

from gradclip.engines import cpu_layout as layout
from gradclip.engines.cpu_code import address_of
from gradclip.engines.cpu_gather import Table, entry
from gradclip.engines.openmp import parallel

ALONE_BYTES = 1 << 20
"""Below this, waking a second thread costs more than it brings."""

UNDER_GIL_BYTES = 1 << 18
"""Below this, about 10 us of work, giving the GIL away and taking it back costs more than it brings."""

LONGEST_RUN = 16
"""Chunks in a claim: 4 MB of consecutive addresses, which the hardware prefetcher needs to reach its full speed."""

_ORDER = struct.Struct(f"={layout.RUN - layout.KERNELS + 1}q{8 * (layout.RESULT + 3 - layout.RUN)}x")
"""The words of a head from KERNELS to RUN; then zeros, up to NEXT, DONE and RESULT."""

_forked = False


def _in_child() -> None:
    # The threads of the pool did not come along, and it would wait for them for ever.
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


@functools.cache
def _walk_freely() -> Callable[[int], None]:
    """`walk`, which lets other Python threads run."""
    return ctypes.CFUNCTYPE(None, ctypes.c_int64)(address_of("cpu_table", "walk"))


@functools.cache
def kernels(name: str, codes: int) -> int:
    """The address of the kernels with this name, in eight words; 0 for the types not in the set `codes`."""
    found = [address_of("cpu_kernels", name, code) if codes >> code & 1 else 0 for code in range(8)]
    _kept.append((ctypes.c_int64 * 8)(*found))
    return ctypes.addressof(_kept[-1])


_kept: list[ctypes.Array[ctypes.c_int64]] = []


def usable_threads(table: Table, threads: Callable[[], int]) -> int:
    """The number of threads that a walk over `table` is worth."""
    if table.words[layout.BYTES] < ALONE_BYTES or _forked or parallel() is None:
        return 1
    return threads()


def walk(
    table: Table,
    name: str,
    threads: Callable[[], int],
    totals: int = 0,
    how: int = layout.NOTHING,
    spread: int = 0,
    parameters: int = 0,
    stride: int = 0,
) -> None:
    """Call the kernel `name` on each chunk. `parameters`, `stride`, `totals`, `spread`, `how`: see `cpu_table`."""
    words = table.words
    chunks, functions = words[layout.CHUNKS], kernels(name, words[layout.CODES])
    if words[layout.BYTES] < UNDER_GIL_BYTES:
        _ORDER.pack_into(words, 8 * layout.KERNELS, functions, parameters, stride, spread, how, totals, chunks or 1)
        entry("walk")(table.address)
        return
    wanted = usable_threads(table, threads)
    run = max(chunks, 1) if wanted == 1 else max(1, min(LONGEST_RUN, chunks // (32 * wanted)))
    _ORDER.pack_into(words, 8 * layout.KERNELS, functions, parameters, stride, spread, how, totals, run)
    if wanted > 1 and (on_threads := parallel()) is not None:
        on_threads(address_of("cpu_table", "walk"), table.address, wanted, 0)
    else:
        _walk_freely()(table.address)
