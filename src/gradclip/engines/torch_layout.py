"""How a PyTorch gradient lies in memory: what to measure, what to write, and what to refuse.

The adapter between PyTorch and the engines: `payload` for gradients that are not plain contiguous tensors, and the few
facts about PyTorch that an engine needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensor

from gradclip.engines.base import NO_FLOAT, SPARSE, OnOtherDevice, UnsupportedGradient
from gradclip.engines.overlap import strided
from gradclip.rules.segments import Shape

FLOATS = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})
COMPLEX = frozenset({torch.complex32, torch.complex64, torch.complex128})


TENSOR, PARAMETER = torch.Tensor, torch.nn.Parameter
PLAIN = frozenset({TENSOR, PARAMETER})
"""The classes whose own instances may be read by pointer; another subclass may mean anything."""


class TorchPayload(NamedTuple):
    """A contiguous real tensor that stands for a gradient.

    `magnitudes` is |z| of a complex gradient, to be measured by every norm but L2. `writeback` copies a written payload
    to the gradient; None where they share memory. `order` has the axes of the gradient in the order in which they lie
    in the payload; None where it is their own.
    """

    tensor: torch.Tensor
    magnitudes: torch.Tensor | None = None
    writeback: Callable[[], object] | None = None
    order: Sequence[int] | None = None

    def straight(self) -> TorchPayload:
        """A copy with the axes in their own order."""
        order = [*(self.order or ()), *range(len(self.order or ()), self.tensor.dim())]
        own = sorted(range(len(order)), key=order.__getitem__)
        copy, size = self.tensor.permute(own).contiguous(), self.magnitudes
        size = None if size is None else size.permute(own[: size.dim()]).contiguous()
        return TorchPayload(copy, size, partial(self.tensor.copy_, copy.permute(order)))


def threads() -> int:
    """How many threads PyTorch would use here: one in a data loader's worker."""
    return torch.get_num_threads()


def unit_axis(shape: Shape) -> int:
    """The axis of the output units: `Linear` keeps (out, in), and `Conv2d` (out, in, height, width)."""
    return 0


def describable(tensors: Sequence[object]) -> bool:
    """Whether PyTorch's C function may be asked about `tensors`; it answers an error where it cannot tell."""
    return True


def on_cpu(tensor: object) -> bool:
    """Whether `tensor` is a PyTorch tensor in the memory of the CPU."""
    return isinstance(tensor, torch.Tensor) and tensor.is_cpu


def written(tensors: Iterable[torch.Tensor]) -> None:
    """Tell autograd that `tensors` were written behind its back."""
    torch.autograd.graph.increment_version(tensors)


DTYPE, SHAPE, LAYOUT, DEVICE, BYTES = (
    getattr(torch.Tensor, name).__get__ for name in ("dtype", "shape", "layout", "device", "nbytes")
)


def are_plain(tensors: Sequence[torch.Tensor]) -> bool:
    """Whether all are real and contiguous and on one device, to be measured and written where they lie.

    A loop in Python takes ten times as long as these.
    """
    if not PLAIN.issuperset(map(type, tensors)) or not {torch.strided}.issuperset(map(LAYOUT, tensors)):
        return False
    devices = set(map(DEVICE, tensors))
    dense = FLOATS.issuperset(map(DTYPE, tensors)) and all(map(torch.Tensor.is_contiguous, tensors))
    return dense and len(devices) == 1 and devices.pop().type != "meta" and not any(map(torch.Tensor.is_neg, tensors))


def hold_float64(tensors: Sequence[torch.Tensor]) -> bool:
    """Whether any has elements, or parts of complex ones, of 64 bits."""
    return not {torch.float64, torch.complex128}.isdisjoint(map(DTYPE, tensors))


def extents(tensors: Sequence[torch.Tensor], dense: bool) -> tuple[np.ndarray, np.ndarray]:
    """Where the memory of each begins and ends; `dense` says that they are plain: see `are_plain`."""
    if dense:
        starts, sizes = (np.fromiter(map(of, tensors), np.int64) for of in (torch.Tensor.data_ptr, BYTES))
        return starts, starts + sizes
    starts, ends = np.array([extent(tensor) for tensor in tensors]).T
    return starts, ends


def memory(tensor: torch.Tensor) -> np.ndarray:
    """The memory of a strided tensor as NumPy describes it, on whatever device."""
    item = tensor.element_size()
    return strided(tensor.data_ptr(), tensor.shape, [step * item for step in tensor.stride()], item)


def extent(tensor: torch.Tensor) -> tuple[int, int]:
    """Where the memory of a strided tensor begins and ends."""
    start = tensor.data_ptr()
    if tensor.is_contiguous() or not tensor.numel():
        return start, start + tensor.nbytes
    last = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
    return start, start + (last + 1) * tensor.element_size()


def plain(gradient: torch.Tensor, index: int) -> torch.Tensor:
    """The strided tensor that holds the elements of `gradient`, or the reason why there is none."""
    if hasattr(gradient, "device_mesh"):
        raise UnsupportedGradient(index, "it is a DTensor: its shards need a reduction that gradclip does not do yet")
    if not isinstance(gradient, torch.Tensor):
        raise UnsupportedGradient(index, f"it is a {type(gradient).__name__}, not a torch.Tensor")
    if gradient.layout is torch.sparse_coo:
        return plain(_coalesced(gradient)._values(), index)
    if gradient.layout is not torch.strided:
        raise UnsupportedGradient(index, f"its layout is {gradient.layout}: call .to_dense() or .to_sparse_coo()")
    if gradient.device.type == "meta":
        raise UnsupportedGradient(index, "it is on the meta device and holds no numbers")
    if isinstance(gradient, FakeTensor) and gradient.is_cpu:
        raise UnsupportedGradient(index, "it is a FakeTensor, which holds no numbers")
    if gradient.dtype not in FLOATS | COMPLEX:
        raise UnsupportedGradient(index, NO_FLOAT.format(gradient.dtype))
    if type(gradient) in PLAIN and not (gradient.requires_grad and torch.is_grad_enabled()):
        return gradient
    return gradient.detach().as_subclass(torch.Tensor)


def payload(gradient: torch.Tensor, index: int) -> TorchPayload:
    """The payload of any gradient on the CPU that can be clipped; `index` is its place, for the error."""
    tensor = plain(gradient, index)
    if not tensor.is_cpu:
        raise OnOtherDevice(index, f"it is on {tensor.device} and others on the CPU: clip each device by itself")
    return payload_of(tensor, index)


def payload_of(tensor: torch.Tensor, index: int) -> TorchPayload:
    """The payload of a strided tensor on whatever device."""
    if tensor.dtype in COMPLEX:
        found = _dense(tensor, index)
        return found._replace(tensor=parts(found.tensor), magnitudes=magnitudes(found.tensor, torch.float64))
    return _dense(tensor, index)


def parts(tensor: torch.Tensor) -> torch.Tensor:
    """`tensor`, or the real and imaginary parts of a complex one, in the same memory; a lazy conjugation is undone."""
    if tensor.dtype not in COMPLEX:
        return tensor
    return torch.view_as_real(tensor.conj() if tensor.is_conj() else tensor)


def magnitudes(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """|x| in the float type `dtype`, of a complex tensor without leaving the range on the way."""
    wide = tensor.to(torch.complex128 if dtype is torch.float64 else torch.complex64)
    return wide.abs() if tensor.dtype in COMPLEX else tensor.to(dtype).abs()


def distinct(tensor: torch.Tensor) -> torch.Tensor:
    """The view of `tensor` that holds each memory place once: an expanded axis shrinks to one index."""
    for axis, (size, stride) in enumerate(zip(tensor.shape, tensor.stride(), strict=True)):
        if stride == 0 and size > 1 and tensor.numel():
            tensor = tensor.narrow(axis, 0, 1)
    return tensor


def _in_order(tensor: torch.Tensor) -> TorchPayload | None:
    """The same memory with its axes in the order of their strides, if that is contiguous and the first axis stays it.

    Nothing that is done to a gradient depends on the order of the elements of a row; channels_last weights are so.
    """
    if tensor.is_conj() or tensor.is_neg():
        return None
    strides = tensor.stride()
    order = sorted(range(tensor.dim()), key=lambda axis: (-strides[axis], axis))
    view = tensor.permute(order)
    return TorchPayload(view, order=order) if order[:1] == [0] and view.is_contiguous() else None


def refuse_overlap(tensor: torch.Tensor, index: int) -> None:
    """Refuse a tensor unless its strides show that no two elements share a place: it would be scaled twice there."""
    reach = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1 and stride < reach and tensor.numel():
            raise UnsupportedGradient(index, "its elements overlap in memory: assign a .clone() of it to .grad")
        reach += stride * (size - 1)


def _dense(tensor: torch.Tensor, index: int) -> TorchPayload:
    if tensor.is_contiguous() and not tensor.is_conj() and not tensor.is_neg():
        return TorchPayload(tensor)
    if (permuted := _in_order(tensor)) is not None:
        return permuted
    target = distinct(tensor)
    refuse_overlap(target, index)
    copy = tensor.resolve_conj().resolve_neg().clone(memory_format=torch.contiguous_format)
    source = copy
    for axis, (size, wanted) in enumerate(zip(copy.shape, target.shape, strict=True)):
        source = source.narrow(axis, 0, wanted) if size != wanted else source
    return TorchPayload(copy, writeback=partial(target.copy_, source))


def _coalesced(gradient: torch.Tensor) -> torch.Tensor:
    """`gradient` with each index once, changed in place: the same matrix, written shorter."""
    if gradient.is_coalesced():
        return gradient
    with torch.no_grad():
        return gradient.copy_(gradient.coalesce())


class TorchValues:
    """`Values` for PyTorch tensors: each new one has memory of its own."""

    zeros = staticmethod(torch.zeros_like)

    @staticmethod
    def tensor(value: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        return value.clone()

    @staticmethod
    def wide(tensor: torch.Tensor, index: int) -> torch.Tensor:
        if tensor.layout is not torch.strided:
            raise UnsupportedGradient(index, SPARSE)
        values = plain(tensor, index)
        refuse_overlap(values, index)
        return values.to(torch.promote_types(values.dtype, torch.float32), copy=True)

    @staticmethod
    def put_(tensor: torch.Tensor, source: torch.Tensor) -> None:
        tensor.detach().copy_(source)

    @staticmethod
    def beside(saved: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return saved.to(value)

    @staticmethod
    def where(flag: object, then: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return torch.where(flag, then, other) if isinstance(flag, torch.Tensor) else then if flag else other


VALUES = TorchValues()
