"""Which engine serves a framework: the compiled one for the CPU where numba is installed, or the framework's own."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gradclip.engines.base import Engine
from gradclip.errors import shown


@cache
def compiled(adapter: Any) -> Engine | None:
    """The compiled engine for the CPU tensors of the framework of `adapter`; None where numba does not compile."""
    if not compiles():
        return None
    from gradclip.engines.cpu import CpuEngine

    return CpuEngine(adapter)


def compiles() -> bool:
    """Whether numba is there and may compile.

    It is not imported for that, which would take longer than the first clip of a process, but where it has a file of
    settings here.
    """
    if "numba" not in sys.modules and not Path(".numba_config.yaml").exists():
        return find_spec("numba") is not None and os.environ.get("NUMBA_DISABLE_JIT", "0").strip() in ("", "0")
    try:
        import numba
    except ModuleNotFoundError:
        return False
    return not getattr(numba.config, "DISABLE_JIT", False)


@cache
def reader(adapter: Any, attribute: str, flag: str) -> Callable[[list[Any]], list[Any] | None] | None:
    """A compiled function that reads an attribute of each of many plain tensors: see `cpu_collect`; None without."""
    if compiled(adapter) is None:
        return None
    from gradclip.engines import cpu_collect

    return cpu_collect.reader((adapter.TENSOR, adapter.PARAMETER), attribute, flag)


NEEDS = {"cpu": ("numba", "gradclip[cpu]"), "triton": ("Triton", "gradclip[cuda]")}
"""What an engine needs, and what installs it."""


def checked(
    name: str | None, plain: str, framework: str, engines: Mapping[str, Callable[[], Engine | None]]
) -> str | None:
    """`name` if it is `plain` or that of one of `engines` that is installed, or the error that says what there is."""
    if name is None or (isinstance(name, str) and name == plain):
        return name
    if not isinstance(name, str) or name not in engines:
        every = ", ".join(map(repr, engines))
        raise ValueError(f"{framework} has the engines {every}, {plain!r} and None to choose, got {shown(name)}")
    if engines[name]() is None:
        needs, extra = NEEDS[name]
        raise ModuleNotFoundError(f'the engine "{name}" needs {needs}: pip install "{extra}", or use engine="{plain}"')
    return name
