"""From a Python function to an object file: numba types it and optimizes it, LLVM makes machine code of that.

The object needs nothing of numba where it runs, so that a process that finds it kept never imports numba. Importing
this module does.
"""

from __future__ import annotations

import functools
import gc
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeAlias

import llvmlite.binding as llvm
import numba
import numpy as np
from llvmlite import ir
from numba import cfunc, types
from numba.core.base import BaseContext as Target
from numba.core.ccallback import CFunc
from numba.core.registry import cpu_target
from numba.core.typing.context import BaseContext as Typing
from numba.core.typing.templates import Signature

from gradclip.engines.cpu_cache import ObjectFile

__all__ = ["Code", "Elements", "Numbers", "ObjectFile", "Signature", "Target", "Type", "Typing", "Words", "njit",
           "object_of"]  # fmt: skip

njit = functools.partial(numba.njit, no_cpython_wrapper=True, no_cfunc_wrapper=True)
"""For what only compiled code calls: numba leaves out what others would call it by, and compiles in two thirds."""

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

OF_NUMBA = re.compile(r"^declare (.*? @(?:numba|NRT)_\w+\([^)\n]*\)).*$", re.MULTILINE)
"""The line that declares a function of numba's own runtime, up to its attributes."""

TRAP = "llvm.trap"

CALLABLE: dict[str, CFunc] = {}
"""What was compiled in this process as numba has it in memory, by its symbol."""


def object_of(signature: Signature, body: Callable[..., object]) -> ObjectFile:
    """`body` as a C function for this processor, in an object file."""
    with _uncollected():
        made = cfunc(signature, error_model="numpy")(body)
    triple, processor, features = cpu_target.target_context.codegen().magic_tuple()
    x86 = triple.startswith(("x86", "i386", "i686"))
    machine = llvm.Target.from_triple(llvm.get_process_triple()).create_target_machine(
        cpu=processor, features=features, opt=3, reloc="static" if x86 else "default", codemodel="jitdefault", jit=True
    )  # as numba makes its own
    CALLABLE[made.native_name] = made
    module = llvm.parse_assembly(without_runtime(made.inspect_llvm()))
    return ObjectFile(made.native_name, machine.emit_object(module))


@contextmanager
def _uncollected() -> Iterator[None]:
    """While Python does not look for garbage, among a million objects that numba keeps: a tenth of the time."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


def without_runtime(text: str) -> str:
    """The instructions of a module without calls into numba's runtime.

    numba calls it where a function has raised an error. None of ours has anything to raise, which LLVM does not always
    see; should one come there nevertheless, the process ends.
    """
    text, found = OF_NUMBA.subn(rf"define internal \1 {{\n  call void @{TRAP}()\n  unreachable\n}}", text)
    declared = f"declare void @{TRAP}()"
    return text if not found or declared in text else f"{text}\n{declared}\n"
