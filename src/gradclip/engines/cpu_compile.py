"""Compiling for the CPU engine: as C functions, kept on disk where a directory can be written."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from numba import cfunc

from gradclip.errors import GradclipWarning


def compile_c(signature: Any, body: Callable[..., Any]) -> Any:
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
