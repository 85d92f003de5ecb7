"""Compiling for the CPU engine: as C functions, kept on disk where a directory can be written."""

from __future__ import annotations

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
    """`body` as a C function; keep it, its `address` dies with it."""
    try:
        return cfunc(signature, cache=True, error_model="numpy")(body)
    except RuntimeError as error:
        if "cannot cache" not in str(error):
            raise
        warnings.warn(
            "the CPU engine compiles anew in each process, because numba found no directory to keep its work in: set "
            "NUMBA_CACHE_DIR to one that can be written",
            GradclipWarning,
            stacklevel=2,
        )
        return cfunc(signature, error_model="numpy")(body)
