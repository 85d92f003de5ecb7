"""Gradients to clip: the parameter shapes of real models, written out by rule, with fixed random numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch

Shape = tuple[int, ...]
SEED = 20130616


class Workload(NamedTuple):
    """Parameters with a gradient each, and the values that the gradients had at first."""

    name: str
    parameters: list[torch.nn.Parameter]
    originals: list[torch.Tensor]

    @property
    def gradients(self) -> list[torch.Tensor]:
        return [p.grad for p in self.parameters if p.grad is not None]

    @property
    def bytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in self.originals)

    def restore(self) -> None:
        """Give the gradients their first values again, in the memory that they have."""
        torch._foreach_copy_(self.gradients, self.originals)


def gpt2() -> Iterator[Shape]:
    """GPT-2 124M: 148 tensors, 124,439,808 elements."""
    width = 768
    yield from ((50257, width), (1024, width))
    for _ in range(12):
        yield from ((width,), (width,), (width, 3 * width), (3 * width,), (width, width), (width,))
        yield from ((width,), (width,), (width, 4 * width), (4 * width,), (4 * width, width), (width,))
    yield from ((width,), (width,))


def resnet50() -> Iterator[Shape]:
    """ResNet-50: 161 tensors, 25,557,032 elements."""
    yield from _convolution(64, 3, 7)
    entering = 64
    for blocks, width in ((3, 64), (4, 128), (6, 256), (3, 512)):
        for block in range(blocks):
            yield from _convolution(width, entering, 1)
            yield from _convolution(width, width, 3)
            yield from _convolution(4 * width, width, 1)
            if block == 0:
                yield from _convolution(4 * width, entering, 1)
            entering = 4 * width
    yield from ((1000, 2048), (1000,))


def _convolution(out: int, into: int, side: int) -> Iterator[Shape]:
    """A convolution and the weight and bias of the batch norm behind it."""
    yield from ((out, into, side, side), (out,), (out,))


def tiny() -> Iterator[Shape]:
    """2000 tensors of 16 elements."""
    yield from [(16,)] * 2000


def single() -> Iterator[Shape]:
    """One tensor of 16 elements."""
    yield (16,)


def huge() -> Iterator[Shape]:
    """4 tensors of 4096 x 4096."""
    yield from [(4096, 4096)] * 4


SHAPES: dict[str, Callable[[], Iterator[Shape]]] = {
    "GPT-2": gpt2,
    "ResNet-50": resnet50,
    "2000 x 16": tiny,
    "1 x 16": single,
    "4 x 4096²": huge,
}


def make(name: str, dtype: torch.dtype = torch.float32, cut: int = 1) -> Workload:
    """The workload called `name`; `cut` divides the first axis of its matrices, for a trial run."""
    shapes = [(-(-s[0] // cut), *s[1:]) if len(s) > 1 else s for s in SHAPES[name]()]
    return with_gradients(name, shapes, dtype)


def with_gradients(name: str, shapes: list[Shape], dtype: torch.dtype = torch.float32) -> Workload:
    """Parameters of these shapes with standard normal gradients."""
    generator = torch.Generator().manual_seed(SEED)
    originals = [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]
    parameters = [torch.nn.Parameter(torch.zeros_like(values)) for values in originals]
    for parameter, values in zip(parameters, originals, strict=True):
        parameter.grad = values.clone()
    return Workload(name, parameters, originals)


def after_backward(workload: Workload) -> Callable[[], None]:
    """What gives each parameter a fresh gradient: a chain through all of them, run forward and backward."""

    def backward() -> None:
        for parameter in workload.parameters:
            parameter.grad = None
        state = torch.ones_like(workload.parameters[0])
        for parameter in workload.parameters:
            state = torch.tanh(state + parameter)
        torch.autograd.backward(state.sum())

    return backward
