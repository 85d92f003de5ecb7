"""What tests in every folder are tried on: each of the forms that clip PyTorch gradients, and each engine."""

import gc
import os
from contextlib import nullcontext

from effort import LONG, QUICK_PROGRAMS

if not LONG:
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICK_PROGRAMS}".strip()

import pytest
from hypothesis import settings

import forked
from benches import BENCHES, INTERPRETED
from doors import DOORS

if not INTERPRETED:
    import jax

# The same draws in each run, so that a change is red by its own fault; --hypothesis-profile=default draws others.
settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")

# Three frameworks and a thousand compiled programs are millions of objects, and to look through them takes seconds.
gc.set_threshold(50_000, 20, 1_000)


def pytest_configure(config):
    """Programs of JAX are kept beside what pytest keeps: the next run, and the other process of this one, read them."""
    forked.shared_folder()
    if INTERPRETED:
        return
    jax.config.update("jax_compilation_cache_dir", str(config.rootpath / ".pytest_cache" / "jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@pytest.fixture(params=DOORS, ids=repr)
def door(request):
    return request.param


@pytest.fixture(params=list(BENCHES))
def bench(request):
    with nullcontext() if INTERPRETED else jax.enable_x64(True):
        yield BENCHES[request.param]
