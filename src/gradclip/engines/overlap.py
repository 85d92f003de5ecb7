"""Which gradients have memory together: the same one is clipped once, a part of another is refused."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
from numpy.lib.array_utils import byte_bounds

from gradclip.engines.base import SHARED, UnsupportedGradient

WORK = 10**6
"""Steps of NumPy's search for an element that two arrays have together: a second at most."""


def strided(address: int, shape: Sequence[int], strides: Sequence[int], item: int) -> np.ndarray:
    """Memory as NumPy describes it, with strides in bytes, to be compared and never read."""
    described = {"data": (address, True), "shape": tuple(shape), "strides": tuple(strides), "typestr": f"|V{item}"}
    return np.asarray(SimpleNamespace(__array_interface__={**described, "version": 3}))


def apart(starts: np.ndarray, ends: np.ndarray) -> bool:
    """Whether memories that begin and end so have nothing together: each ends before the next one begins."""
    return bool((np.sort(ends)[:-1] <= np.sort(starts)[1:]).all())


def repeats(memories: Sequence[np.ndarray]) -> set[int]:
    """The indices of gradients whose memory an earlier one has; empty ones have none.

    Raises `UnsupportedGradient` where two have a part of it together: that would be scaled twice.
    """
    bounds = [byte_bounds(memory) for memory in memories]
    again: set[int] = set()
    reaching: list[int] = []
    for index in sorted((i for i, memory in enumerate(memories) if memory.size), key=lambda i: (bounds[i][0], i)):
        reaching = [other for other in reaching if bounds[other][1] > bounds[index][0]]
        if any(_is_same(memories[other], memories[index]) for other in reaching):
            again.add(index)
            continue
        for other in reaching:
            if _overlap(memories[other], memories[index]):
                raise UnsupportedGradient(max(index, other), SHARED)
        reaching.append(index)
    return again


def _is_same(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two arrays have the same elements of memory, in whatever order."""
    alike = byte_bounds(a) == byte_bounds(b) and a.nbytes == b.nbytes
    return alike and ((_is_dense(a) and _is_dense(b)) or _steps(a) == _steps(b))


def _is_dense(a: np.ndarray) -> bool:
    low, high = byte_bounds(a)
    return bool(high - low == a.nbytes)


def _steps(a: np.ndarray) -> list[tuple[int, int]]:
    return sorted((step, size) for step, size in zip(a.strides, a.shape, strict=True) if size > 1)


def _overlap(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two arrays have an element of memory together; what is too hard to say counts as one."""
    try:
        return np.shares_memory(a, b, max_work=WORK)  # type: ignore[arg-type]  # the stub knows two numbers alone
    except np.exceptions.TooHardError:
        return True
