"""How fast the memory is: the time below which no clipping of the same gradients can go.

`read` xors every word of the tensors; `write` reads every word, xors it with a key of 0 and writes it back, so that the
gradients stay what they are. Two passes, because a coefficient is known only when everything was read. Both run on
PyTorch's own threads where those can be reached, and take their pieces from a shared counter.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import cfunc, types
from numba.extending import intrinsic

WORD = 8
LONGEST_PIECE, SHORTEST_PIECE = 1 << 21, 1 << 17
"""Bytes that a thread takes at a time: in shorter pieces the hardware prefetcher starts anew too often, and in longer
ones a thread waits for the last piece of another."""

ALONE = 1 << 20
"""Below this many bytes, waking a second thread takes longer than reading them."""

NEXT, PIECES, KEY, RESULT, HEAD = range(5)
"""Words of the table: the next piece to take, their number, the key, the result; then (address, words) of each."""

Words: Any = types.CPointer(types.int64)


@intrinsic
def _words(typing: Any, address: Any) -> Any:
    """The memory at `address` as 64-bit words."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(Words))

    return Words(types.int64), generate


def _atomic(operation: str) -> Any:
    """`operation` on the word at an address, in one step for all threads; returns what was there."""

    @intrinsic
    def change(typing: Any, address: Any, value: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            place = builder.inttoptr(args[0], ir.IntType(64).as_pointer())
            return builder.atomic_rmw(operation, place, args[1], "monotonic")

        return types.int64(types.int64, types.int64), generate

    return change


_add, _xor = _atomic("add"), _atomic("xor")


@cfunc("void(int64)", cache=True)
def _read(table: int) -> None:
    head = _words(table)
    found = 0
    piece = _add(table, 1)
    while piece < head[PIECES]:
        words = _words(head[HEAD + 2 * piece])
        for i in range(head[HEAD + 2 * piece + 1]):
            found ^= words[i]
        piece = _add(table, 1)
    _xor(table + WORD * RESULT, found)


@cfunc("void(int64)", cache=True)
def _write(table: int) -> None:
    head = _words(table)
    key = head[KEY]
    piece = _add(table, 1)
    while piece < head[PIECES]:
        words = _words(head[HEAD + 2 * piece])
        for i in range(head[HEAD + 2 * piece + 1]):
            words[i] ^= key
        piece = _add(table, 1)


class Limit:
    """The memory of some tensors, to be read, or read and then read and written, as fast as it goes."""

    def __init__(self, tensors: Sequence[torch.Tensor]) -> None:
        size = sum(map(_bytes, tensors))
        longest = max(SHORTEST_PIECE, min(LONGEST_PIECE, size // (8 * torch.get_num_threads()) // 4096 * 4096))
        pieces = [piece for tensor in tensors for piece in _pieces(tensor, longest)]
        self._tensors = tensors
        self._table = np.zeros(HEAD + 2 * len(pieces), np.int64)
        self._table[PIECES] = len(pieces)
        self._table[HEAD:] = np.asarray(pieces, np.int64).reshape(-1)
        self._address = self._table.ctypes.data
        self._run = alone if size < ALONE else team()

    def read(self) -> None:
        """Read every byte once."""
        self._table[NEXT] = 0
        self._run(_read.address, self._address)

    def write(self) -> None:
        """Read every byte once and write it."""
        self._table[NEXT] = 0
        self._run(_write.address, self._address)

    def read_then_write(self) -> None:
        """Read every byte once; then read and write every byte: the least that a clip needs which clips."""
        self.read()
        self.write()


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _pieces(tensor: torch.Tensor, longest: int) -> list[tuple[int, int]]:
    start, size = tensor.data_ptr(), _bytes(tensor)
    return [(start + at, min(longest, size - at) // WORD) for at in range(0, size, longest)]


def alone(function: int, argument: int) -> None:
    """Run a compiled function on this thread."""
    ctypes.CFUNCTYPE(None, ctypes.c_int64)(function)(argument)


@functools.cache
def team() -> Callable[[int, int], object]:
    """What runs a compiled function on as many threads as PyTorch uses, and waits for all of them."""
    parallel = getattr(ctypes.CDLL(None), "GOMP_parallel", None) if os.name == "posix" else None
    if parallel is None:
        return _python_threads()
    parallel.restype = None
    parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    return lambda function, argument: parallel(function, argument, torch.get_num_threads(), 0)


def _python_threads() -> Callable[[int, int], object]:
    """The same with threads of Python, which give the GIL away while they are in compiled code."""
    others = torch.get_num_threads() - 1
    pool = ThreadPoolExecutor(max(others, 1))

    def run(function: int, argument: int) -> None:
        call = ctypes.CFUNCTYPE(None, ctypes.c_int64)(function)
        waiting = [pool.submit(call, argument) for _ in range(others)]
        call(argument)
        for one in waiting:
            one.result()

    return run


def other_ways(tensors: list[torch.Tensor]) -> dict[str, Callable[[], object]]:
    """Other ways of moving the same bytes: were one of them faster, the limit would be wrong."""
    return {
        "torch, sum of each": lambda: [tensor.sum() for tensor in tensors],
        "torch, largest of each": lambda: [tensor.amax() for tensor in tensors],
        "NumPy, xor of each": lambda: [np.bitwise_xor.reduce(_as_words(tensor)) for tensor in tensors],
        "torch, multiply each": lambda: torch._foreach_mul_(tensors, 1.0),
    }


def _as_words(tensor: torch.Tensor) -> np.ndarray[Any, np.dtype[np.int64]]:
    flat = tensor.reshape(-1)
    return flat[: flat.numel() // 4 * 4].view(torch.int64).numpy()
