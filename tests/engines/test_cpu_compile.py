"""Compiled code is kept on disk where it can be, and where it cannot that is said."""

import pytest
from numba import types

from gradclip.engines.cpu_compile import compile_c
from gradclip.errors import GradclipWarning


def test_a_function_that_cannot_be_kept_is_compiled_all_the_same_and_said():
    scope = {}
    exec("def twice(number): return 2 * number", scope)  # it has no file, so numba has no place to keep it by
    with pytest.warns(GradclipWarning, match="set NUMBA_CACHE_DIR"):
        compiled = compile_c(types.int64(types.int64), scope["twice"])
    assert compiled.ctypes(21) == 42
