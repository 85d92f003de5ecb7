"""Compiling for the CPU engine: as C functions, kept on disk where a directory can be written."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from llvmlite import ir
from numba import cfunc, types
from numba.core.base import BaseContext as Target
from numba.core.ccallback import CFunc
from numba.core.typing.context import BaseContext as Typing
from numba.core.typing.templates import Signature

from gradclip.engines.cpu_cache import Kept
from gradclip.errors import GradclipWarning

__all__ = ["CFunc", "Code", "Elements", "Numbers", "Signature", "Target", "Type", "Typing", "Words", "compile_c"]

Type: TypeAlias = types.Type
"""What numba takes an argument of an intrinsic for."""

Code: TypeAlias = tuple[Signature, Callable[[Target, ir.IRBuilder, Signature, Sequence[ir.Value]], ir.Value]]
"""What an intrinsic gives: its signature, and what writes its instructions."""

Elements: TypeAlias = np.ndarray
"""A pointer to elements of one type."""

Numbers: TypeAlias = np.ndarray
"""A pointer to fp64 numbers."""

Words: TypeAlias = np.ndarray
"""A pointer to 64-bit words."""


def compile_c(signature: Signature, body: Callable[..., object]) -> CFunc:
    """`body` as a C function; keep it, its `address` dies with it.

    It is read from disk where an earlier process has kept it whole, and kept there if a disk can be written.
    """
    try:
        kept = Kept(body)
        with kept.alone():
            return _read_or_kept(kept, signature, body)
    except (OSError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "cannot cache" not in str(error):
            raise
        why = "numba found no directory to keep its work in" if isinstance(error, RuntimeError) else f"{error}"
        _say(
            f"the CPU engine compiles anew in each process, because its work cannot be kept: {why}; set "
            "NUMBA_CACHE_DIR to a directory that can be written"
        )
    return cfunc(signature, error_model="numpy")(body)


def _read_or_kept(kept: Kept, signature: Signature, body: Callable[..., object]) -> CFunc:
    if kept.remove_damaged():
        _say(f"what the CPU engine had compiled before was damaged in {kept.folder}: it was removed, and is made anew")
    found = cfunc(signature, cache=True, error_model="numpy")(body)
    if not found.cache_hits:
        kept.seal()
    return found


@functools.cache
def _say(what: str) -> None:
    """Warn, of each thing once a process."""
    warnings.warn(what, GradclipWarning, stacklevel=2)
