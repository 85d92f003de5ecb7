"""The frameworks and the engines, in a process that runs tests: a plugin, which `conftest.py` asks for.

A process that hands tests out to others runs none, and does without: it would import for five seconds.
"""

from contextlib import nullcontext

import pytest

from benches import BENCHES, INTERPRETED
from doors import DOORS

if not INTERPRETED:
    import jax

    from jax_lowering import share_contexts

    share_contexts()


def pytest_sessionstart(session):
    """Programs of JAX are kept beside what pytest keeps: the next run, and the other process of this one, read them."""
    if INTERPRETED:
        return
    jax.config.update("jax_compilation_cache_dir", str(session.config.rootpath / ".pytest_cache" / "jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@pytest.fixture(params=DOORS, ids=repr)
def door(request):
    return request.param


@pytest.fixture(params=list(BENCHES))
def bench(request):
    with nullcontext() if INTERPRETED else jax.enable_x64(True):
        yield BENCHES[request.param]
