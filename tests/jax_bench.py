"""How the laws make JAX arrays and read them; the engine makes its scalars in float64, so its tests ask for that."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from gradclip.engines.base import Slot
from gradclip.engines.jax import JAX
from gradclip.testing import Bench

READS = ("__array__", "__bool__", "__float__", "__int__", "__index__", "__complex__", "item", "tolist", "_value")


@contextmanager
def unread() -> Iterator[None]:
    """A context in which reading a number of an array raises."""

    def refuse(self, *args, **kwargs):
        raise AssertionError("a number of an array was read on the host")

    array = type(jnp.zeros(1))
    with mock.patch.multiple(array, **{name: property(refuse) if name == "_value" else refuse for name in READS}):
        yield


def make(values: np.ndarray, dtype: str) -> Slot:
    return Slot(jnp.asarray(values, dtype))


def read(slot: Slot) -> np.ndarray:
    values = np.asarray(slot.value)
    return values if values.dtype.kind == "c" else values.astype(np.float64)


def float64_scalars() -> Iterator[None]:
    """What an autouse fixture of a test package runs, so that the engine finds what its door gives it."""
    with jax.enable_x64(True):
        yield


class Flushed(Bench):
    """XLA on a CPU writes zero for a denormal result: a product is right to 2^-126 there, the smallest normal number.

    What is measured, and what is not multiplied, is exact; so the laws that compare bits or norms have no such room.
    """

    @property
    def smallest(self) -> float:
        return max(super().smallest, 2.0**-126 if self.dtype in ("float32", "bfloat16", "complex64") else 0.0)


def units(shape: tuple[int, ...]) -> int | tuple[int, ...]:
    """The axes of the output units in the kernels of flax, as Optax reads them off a shape."""
    if np.squeeze(np.empty(shape)).ndim <= 1:
        return ()
    return {2: 1, 3: (1, 2), 4: 3, 5: 4}[len(shape)]


BENCH = Flushed(JAX, make, read, unit_axis=units, unread=unread)
