"""The bench of Paddle: eager tensors in slots, and a context in which no number of one may be read."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import paddle

from gradclip.engines.base import Engine, Slot
from gradclip.engines.paddle import ENGINE
from gradclip.testing import Bench

READS = ("numpy", "item", "tolist", "__array__", "__bool__", "__float__", "__int__", "__index__")


class TensorSlot(Slot):
    """A slot that tells what its tensor is like, as the laws ask it."""

    @property
    def dtype(self) -> paddle.dtype:
        return self.value.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.value.shape)


def make(values: np.ndarray, dtype: str) -> TensorSlot:
    return TensorSlot(tensor_of(values, dtype))


def tensor_of(values: np.ndarray, dtype: str) -> paddle.Tensor:
    wide = "complex128" if np.asarray(values).dtype.kind == "c" else "float64"
    return paddle.to_tensor(np.asarray(values, dtype=wide), place=paddle.CPUPlace()).astype(dtype)


def read(slot: Slot) -> np.ndarray:
    return numbers_of(slot.value)


def numbers_of(tensor: paddle.Tensor) -> np.ndarray:
    return tensor.astype("complex128" if tensor.is_complex() else "float64").numpy()


def last_of_matrices(shape: tuple[int, ...]) -> int:
    """The axis of the output units: `paddle.nn.Linear` keeps (in, out), convolutions begin with theirs."""
    return {2: 1}.get(len(shape), 0)


@contextmanager
def unread() -> Iterator[None]:
    """A context in which reading a number of a tensor raises."""

    def refuse(self, *args, **kwargs):
        raise AssertionError("a number of a tensor was read on the host")

    before = {name: getattr(paddle.Tensor, name) for name in READS}
    for name in READS:
        setattr(paddle.Tensor, name, refuse)
    try:
        yield
    finally:
        for name, method in before.items():
            setattr(paddle.Tensor, name, method)


ON_A_DEVICE = Bench(ENGINE, make, read, unit_axis=last_of_matrices, unread=unread)


def on_cpu(engine: Engine) -> Bench:
    """The bench of an engine that writes eager tensors in place."""
    stamp = operator.attrgetter("inplace_version")
    return Bench(engine, tensor_of, numbers_of, stamp=stamp, unit_axis=last_of_matrices)
