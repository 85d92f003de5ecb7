"""How a Paddle gradient lies in memory: what to measure, what to write, and what to refuse.

The adapter between Paddle's eager tensors and the engines: `payload` for gradients that are not plain contiguous
tensors, and the few facts about Paddle that an engine needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import paddle
from paddle.base.framework import EagerParamBase
from paddle.nn.clip import merge_selected_rows

from gradclip.engines import openmp
from gradclip.engines.base import NO_FLOAT, SPARSE, UnsupportedGradient
from gradclip.engines.overlap import strided
from gradclip.engines.paddle_legacy import PaddleTensor
from gradclip.rules.segments import Shape

FLOATS = frozenset({paddle.float16, paddle.bfloat16, paddle.float32, paddle.float64})
COMPLEX = frozenset({paddle.complex64, paddle.complex128})
WIDE = COMPLEX | {paddle.float32, paddle.float64}

TENSOR, PARAMETER = paddle.Tensor, EagerParamBase
"""The classes whose own instances may be read by pointer."""


class PaddlePayload(NamedTuple):
    """A contiguous real tensor that stands for a gradient.

    `magnitudes` is |z| of a complex gradient, to be measured by every norm but L2. `writeback` copies a written payload
    to the gradient; None where they share memory. `order` would have the order of the axes in the payload, were it not
    their own.
    """

    tensor: PaddleTensor
    magnitudes: PaddleTensor = None
    writeback: Callable[[], object] | None = None
    order: None = None

    def straight(self) -> PaddlePayload:
        """Its axes are in their own order."""
        return self


def threads() -> int:
    """How many threads a walk may take. Paddle's own operators take one unless it is told otherwise (decision 0016)."""
    return openmp.threads()


def unit_axis(shape: Shape) -> int:
    """The axis of the output units: `Linear` keeps (in, out), and `Conv2D` (out, in, height, width)."""
    return 1 if len(shape) == 2 else 0


def describable(tensors: Sequence[PaddleTensor]) -> bool:
    """Whether Paddle's C function may be asked about `tensors`: it takes every tensor for a dense one, and crashes."""
    try:
        return all(map(paddle.Tensor.is_dense, tensors))
    except TypeError:  # not a tensor at all
        return False


def on_cpu(tensor: PaddleTensor) -> bool:
    """Whether `tensor` is an eager Paddle tensor in the memory of the CPU."""
    return isinstance(tensor, paddle.Tensor) and tensor.place.is_cpu_place()


def written(tensors: Iterable[PaddleTensor]) -> None:
    """Tell autograd that `tensors` were written behind its back; it keeps no count for SelectedRows."""
    for tensor in tensors:
        if tensor.is_dense():
            tensor._bump_inplace_version()


def memory(tensor: PaddleTensor) -> np.ndarray:
    """The memory of a dense tensor as NumPy describes it."""
    item = tensor.element_size()
    return strided(tensor.data_ptr(), tensor.shape, [step * item for step in tensor.strides], item)


def plain(gradient: PaddleTensor, index: int) -> PaddleTensor:
    """The dense tensor that holds the elements of `gradient`, or the reason why there is none."""
    if not isinstance(gradient, paddle.Tensor):
        raise UnsupportedGradient(index, f"it is a {type(gradient).__name__}, not a paddle.Tensor")
    if gradient.is_selected_rows():
        return plain(merged_rows(gradient), index)
    if gradient.is_dist():
        raise UnsupportedGradient(index, "it is a DistTensor, whose shards gradclip does not sum up yet")
    if not gradient.is_dense():
        raise UnsupportedGradient(
            index, "it is a sparse tensor: call .to_dense(), or let Embedding(sparse=True) make it"
        )
    if gradient.dtype not in FLOATS | COMPLEX:
        raise UnsupportedGradient(index, NO_FLOAT.format(gradient.dtype))
    return gradient


def merged_rows(gradient: PaddleTensor) -> PaddleTensor:
    """The rows of a SelectedRows gradient as a tensor in its memory, each row once.

    Merging changes the gradient in place: it is the same matrix, written shorter.
    """
    rows = gradient.get_selected_rows()
    if len(set(rows.rows())) < len(rows.rows()):
        merged = merge_selected_rows(gradient)
        short = merged.get_selected_rows()  # it lives as long as `merged`
        rows.get_tensor()._share_data_with(short.get_tensor())
        rows.set_rows(short.rows())
        rows.sync_index()
    return paddle.Tensor(rows.get_tensor())


def payload(gradient: PaddleTensor, index: int) -> PaddlePayload:
    """The payload of any gradient on the CPU that can be clipped; `index` is its place, for the error."""
    tensor = plain(gradient, index)
    if not on_cpu(tensor):
        raise UnsupportedGradient(index, f"it is on {tensor.place} and others on the CPU: clip each device by itself")
    refuse_overlap(tensor, index)
    contiguous, writeback = tensor, None
    with paddle.no_grad():
        if not tensor.is_contiguous():
            contiguous = tensor.clone()  # not contiguous(), which moves the tensor itself to other memory
            writeback = partial(write, tensor, contiguous)
        if tensor.dtype not in COMPLEX:
            return PaddlePayload(contiguous, writeback=writeback)
        return PaddlePayload(paddle.as_real(contiguous), contiguous.astype(paddle.complex128).abs(), writeback)


def write(target: PaddleTensor, source: PaddleTensor) -> None:
    """Copy `source` into the memory of `target`, whose strides stay."""
    with paddle.no_grad():
        target.copy_(source, True)


def refuse_overlap(tensor: PaddleTensor, index: int) -> None:
    """Refuse a tensor unless its strides show that no two elements share a place: it would be scaled twice there."""
    reach = 1
    for stride, size in sorted(zip(tensor.strides, tensor.shape, strict=True)):
        if size > 1 and stride < reach and tensor.size:
            raise UnsupportedGradient(index, "its elements overlap in memory: assign a .clone() of it to .grad")
        reach += stride * (size - 1)


class PaddleValues:
    """`Values` for eager Paddle tensors: each new one has memory of its own."""

    zeros = staticmethod(paddle.zeros_like)

    @staticmethod
    def tensor(value: PaddleTensor, like: PaddleTensor) -> PaddleTensor:
        return value.clone()

    @staticmethod
    def wide(tensor: PaddleTensor, index: int) -> PaddleTensor:
        if tensor.is_selected_rows():
            raise UnsupportedGradient(index, SPARSE)
        values = plain(tensor, index).detach()
        refuse_overlap(values, index)
        return values.clone() if values.dtype in WIDE else values.astype(paddle.float32)

    @staticmethod
    def put_(tensor: PaddleTensor, source: PaddleTensor) -> None:
        write(tensor, source.astype(tensor.dtype))
        written([tensor])

    @staticmethod
    def beside(saved: PaddleTensor, value: PaddleTensor) -> PaddleTensor:
        return saved.to(value.place).astype(value.dtype)

    @staticmethod
    def where(flag: object, then: PaddleTensor, other: PaddleTensor) -> PaddleTensor:
        return paddle.where(flag, then, other) if isinstance(flag, paddle.Tensor) else then if flag else other


VALUES = PaddleValues()
