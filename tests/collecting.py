"""Collecting garbage beside three frameworks, whose millions of objects take seconds to be looked through."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def of_new_objects() -> Iterator[None]:
    """Inside, `gc.collect()` looks through what was made inside."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
