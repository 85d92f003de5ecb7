"""How much work the tests are worth: the short form for `make test`, the long one, `TESTS=long`, for `make laws`."""

from __future__ import annotations

import os

import pytest

LONG = os.environ.get("TESTS") == "long"
only_long = pytest.mark.skipif(not LONG, reason="a part of the long form, `make laws`: it makes pages or trains anew")

EXAMPLES = 12 if LONG else 4
"""How many gradients hypothesis draws for each rule."""

FEW_SHAPES = ((), (3,), (4, 5), (0, 3), (2, 3, 5), (3, 0))
"""The shapes that JAX meets in the short form: it compiles programs for each."""

QUICK_PROGRAMS = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true --xla_cpu_use_fusion_emitters=false "
    "--xla_cpu_parallel_codegen_split_count=1"
)
"""A program is compiled for one small example, and that takes most of the time of the tests of JAX: these halve it.

The programs do the same operations in the same types. The long form compiles them as a user's process does.
"""
