"""The OpenMP library whose threads the CPU engine runs on: one that is in the process already (decision 0011)."""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable


@functools.cache
def library() -> ctypes.CDLL | None:
    """The library with `GOMP_parallel`: visible to all of the process, or loaded by a framework for itself."""
    if os.name != "posix":
        return None
    everything = ctypes.CDLL(None)
    if hasattr(everything, "GOMP_parallel"):
        return everything
    try:
        return ctypes.CDLL("libgomp.so.1", mode=os.RTLD_NOLOAD)
    except OSError:
        return None


@functools.cache
def parallel() -> Callable[[int, int, int, int], None] | None:
    """`GOMP_parallel(function, argument, threads, flags)`, if there is one."""
    found = library()
    if found is None:
        return None
    function = found.GOMP_parallel
    function.restype = None
    function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    return function


def threads() -> int:
    """How many threads a region gets: the number of cores, or what `OMP_NUM_THREADS` said when the library came."""
    found = library()
    return 1 if found is None else int(found.omp_get_max_threads())
