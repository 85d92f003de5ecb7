"""What JAX does for each program, done once for many: the short form compiles thousands of small ones."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import count
from typing import Any

from effort import LONG

PROGRAMS = 200
"""So many programs are written in one context, which keeps the constants and the places of all of them."""


def renewed(make: Callable[[], Any], uses: int) -> Callable[[], Any]:
    """What `make` makes, made anew after so many uses."""
    made: dict[str, Any] = {}
    used = count()

    def shared() -> Any:
        if next(used) % uses == 0:
            made["now"] = make()
        return made["now"]

    return shared


@cache
def share_contexts() -> None:
    """Write programs into contexts of MLIR that were made before: a fifth of what a small program takes is to make one.

    It is no part of what JAX promises, so where it has no such function each program has a context of its own.
    """
    from jax._src.interpreters import mlir

    make = getattr(mlir, "make_ir_context", None)
    if make is not None and not LONG:
        mlir.make_ir_context = renewed(make, PROGRAMS)
