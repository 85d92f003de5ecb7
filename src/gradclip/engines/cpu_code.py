"""The compiled functions of the CPU engine, by name: read from where they are kept, and else made by numba and kept.

What is kept is machine code that needs nothing of numba, and LLVM alone loads it: importing numba takes longer than
all that a first clip does besides (decision 0052).
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import itertools
import os
import platform
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module, metadata
from pathlib import Path
from typing import Literal

import llvmlite
import llvmlite.binding as llvm

from gradclip.engines.cpu_cache import Kept, ObjectFile, folders
from gradclip.errors import GradclipWarning

SOURCES = ("cpu_kernels.py", "cpu_table.py", "cpu_layout.py", "cpu_compile.py", "cpu_code.py")
"""The files that say what is compiled, and how."""

SETTINGS = ("BOUNDSCHECK", "CPU_FEATURES", "CPU_NAME", "DISABLE_INTEL_SVML", "ENABLE_AVX", "LOOP_VECTORIZE", "OPT",
            "SLP_VECTORIZE")  # fmt: skip
"""What numba can be told that changes the code it makes, as variables of the environment that begin with NUMBA_."""


@functools.cache
def address_of(module: Literal["cpu_kernels", "cpu_table"], name: str, code: int = 0) -> int:
    """The address of a function of one of these modules; one of `cpu_kernels` is there for each type of element."""

    def make() -> ObjectFile:
        made: ObjectFile = import_module(f"gradclip.engines.{module}").compiled(name, code)
        return made

    return loaded(f"{module}.{name}-{code}", make)


def loaded(name: str, make: Callable[[], ObjectFile]) -> int:
    """The address of the function `name`, from where it is kept, or as it is made."""
    try:
        processor, source = _made_for(), _made_from()
        places = [Kept(folder, name, processor, source) for folder in folders()]
    except (OSError, metadata.PackageNotFoundError) as error:  # as in an archive that modules are imported from
        _say_that_nothing_is_kept(error)
        return _loaded(make(), make)
    found, damaged = _read(places)
    if found is None:
        found = _made(places, make)
    for place in damaged:
        _say(f"what the CPU engine had compiled before was damaged in {place.folder}: it is made anew")
    return _loaded(found, make)


def _loaded(found: ObjectFile, make: Callable[[], ObjectFile]) -> int:
    """The address of the function in an object file, or of what numba has compiled for itself where LLVM does not link
    the object.

    It may need more than C and Python: vectors of logarithms that are installed for numba come with it.
    """
    with suppress(RuntimeError):
        return _load(found)
    in_numba = import_module("gradclip.engines.cpu_compile").CALLABLE
    with suppress(RuntimeError):
        return _load(found)
    made = found if found.symbol in in_numba else make()
    return int(in_numba[made.symbol].address)


def _read(places: list[Kept]) -> tuple[ObjectFile | None, list[Kept]]:
    """What is kept in the first place that has it whole; and the places before it where it is damaged."""
    damaged: list[Kept] = []
    for place in places:
        try:
            if (found := place.read()) is not None:
                return found, damaged
        except ValueError:
            damaged.append(place)
        except OSError:  # it may not be read
            pass
    return None, damaged


def _made(places: list[Kept], make: Callable[[], ObjectFile]) -> ObjectFile:
    """What is made now, and kept in the first place that can be written; or what another process has made meanwhile."""
    found, why = None, None
    for place in places:
        try:
            with place.alone():
                if found is None and (kept := _read([place])[0]) is not None:
                    return kept
                found = make() if found is None else found
                place.write(found)
                return found
        except OSError as error:
            why = why or error
    _say_that_nothing_is_kept(why)
    return make() if found is None else found


@functools.cache
def _made_for() -> str:
    """A short name of the processor: other instructions make another file."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    features = ""
    with suppress(RuntimeError):  # LLVM does not know them on every platform
        features = llvm.get_host_cpu_features().flatten()
    return _digest(llvm.get_process_triple(), llvm.get_host_cpu_name(), features)


@functools.cache
def _made_from() -> str:
    """A short name of all else that the code depends on: its sources, the compiler, and what this is told."""
    sources = [Path(__file__).with_name(name).read_bytes().hex() for name in SOURCES]
    numba = sys.modules.get("numba")
    version = metadata.version("numba") if numba is None else numba.__version__
    told = [os.environ.get(f"NUMBA_{name}", "") for name in SETTINGS]
    return _digest(*sources, version, llvmlite.__version__, platform.python_implementation(), *told)


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


_numbers = itertools.count()
"""For the names of what is loaded, of which no two are the same."""


@functools.cache
def _linker() -> llvm.orcjit.LLJIT:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    linker = llvm.create_lljit_compiler(suppress_errors=True)
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(linker))  # for ever: a thread may be in its code as Python ends
    return linker


def _load(found: ObjectFile) -> int:
    """The address of the function in an object file. `RuntimeError` if it needs what is not in this process."""
    library = llvm.JITLibraryBuilder().add_object_img(found.image).add_current_process().export_symbol(found.symbol)
    tracker = library.link(_linker(), f"gradclip-{next(_numbers)}")
    tracker.detach()  # the code stays
    return int(tracker[found.symbol])


def _say_that_nothing_is_kept(why: Exception | None) -> None:
    _say(
        f"the CPU engine compiles anew in each process, because its work cannot be kept: {why}; set NUMBA_CACHE_DIR to "
        "a directory that can be written"
    )


@functools.cache
def _say(what: str) -> None:
    """Warn, of each thing once a process."""
    warnings.warn(what, GradclipWarning, stacklevel=2)
