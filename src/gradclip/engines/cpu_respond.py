"""Responses that the compiled code has no kernel for, over the elements of a table: in NumPy, a few times slower."""

from __future__ import annotations

import ctypes

import numpy as np

from gradclip.engines.cpu_gather import CODE_OF_NAME, Table
from gradclip.engines.reference import NUMPY
from gradclip.rules.arrays import Array
from gradclip.rules.response import Response

BRAIN = CODE_OF_NAME["bfloat16"]
DTYPES = {0: np.float16, BRAIN: np.uint16, 2: np.float32, 3: np.float64}


def respond(table: Table, tensors: int, response: Response, low: Array, high: Array) -> list[int]:
    """Replace each finite element x by `phi(|x| / t) x` (see `Engine.map_`); the tensors in which one has changed."""
    lows, highs = (np.broadcast_to(np.asarray(bound, np.float64), tensors) for bound in (low, high))
    written = []
    for index, (address, elements, code) in enumerate(table.spans[:tensors, :3].tolist()):
        if not elements:
            continue
        stored = _at(address, elements, DTYPES[code])
        wide = _wide(stored, code)
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            ratio = np.abs(wide) / np.where(wide > 0, highs[index], -lows[index])
            mapped = np.where(np.isfinite(wide), wide * response.coefficient(ratio, NUMPY), wide)
        changed = mapped != wide
        changed &= ~np.isnan(wide)
        if changed.any():
            stored[changed] = _narrow(mapped[changed], code)
            written.append(index)
    return written


def _at(address: int, elements: int, dtype: type) -> np.ndarray:
    """The elements at an address, to be read and written there."""
    size = elements * np.dtype(dtype).itemsize
    return np.frombuffer(memoryview((ctypes.c_char * size).from_address(address)), dtype)


def _wide(stored: np.ndarray, code: int) -> np.ndarray:
    if code == BRAIN:
        return (stored.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return stored.astype(np.float64)


def _narrow(wide: np.ndarray, code: int) -> np.ndarray:
    """`wide` in the type of the elements: a bfloat16 is the upper half of a float32, rounded to the nearest even."""
    if code != BRAIN:
        return wide.astype(DTYPES[code])
    bits = wide.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
