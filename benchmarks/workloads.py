"""Gradients to clip: the parameter shapes of real models, written out by rule, with fixed random numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import NamedTuple

import torch

Shape = tuple[int, ...]
SEED = 20130616
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}

NEVER, ALWAYS = 1e9, 0.1
"""Limits that no gradient here reaches, and that every tensor here exceeds."""

INSIDE, OUTSIDE = 100.0, 1.0
"""Bounds that no element here reaches, and that a third of them exceed."""

HEAVY, LIGHT = 1e6, 1.0
"""Weights of which no gradient here exceeds a hundredth, and of which every one does."""

SETTLED = 30
"""Steps after which every method has left its warm-up."""


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


def llama() -> Iterator[Shape]:
    """A Llama of a billion weights: 146 tensors, 1,235,814,400 elements."""
    width, inner, shared = 2048, 8192, 512
    yield (128_256, width)
    for _ in range(16):
        yield from ((width, width), (shared, width), (shared, width), (width, width))
        yield from ((inner, width), (inner, width), (width, inner), (width,), (width,))
    yield (width,)


def medium() -> Iterator[Shape]:
    """2000 tensors of 4096 elements."""
    yield from [(4096,)] * 2000


def long() -> Iterator[Shape]:
    """One tensor of 1.54G elements."""
    yield (751_953, 2048)


SHAPES: dict[str, Callable[[], Iterator[Shape]]] = {
    "GPT-2": gpt2,
    "ResNet-50": resnet50,
    "2000 x 16": tiny,
    "1 x 16": single,
    "4 x 4096²": huge,
    "1B": llama,
    "2000 x 4096": medium,
    "1.54G": long,
}


def make(
    name: str,
    dtype: torch.dtype = torch.float32,
    cut: int = 1,
    most: int | None = None,
    device: torch.device | str = "cpu",
) -> Workload:
    """The workload called `name`; for a trial run `cut` divides the first axis of its matrices, of the first `most`."""
    shapes = [(-(-s[0] // cut), *s[1:]) if len(s) > 1 else s for s in islice(SHAPES[name](), most)]
    return with_gradients(name, shapes, dtype, device)


def with_gradients(
    name: str, shapes: list[Shape], dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> Workload:
    """Parameters of these shapes with standard normal gradients."""
    generator = torch.Generator(device).manual_seed(SEED)
    originals = [torch.randn(shape, generator=generator, device=device).to(dtype) for shape in shapes]
    return Workload(name, holders([values.clone() for values in originals]), originals)


def holders(gradients: list[torch.Tensor], weight: float = 0.0) -> list[torch.nn.Parameter]:
    """Parameters that have these gradients and are full of `weight`."""
    parameters = [torch.nn.Parameter(torch.full_like(gradient, weight)) for gradient in gradients]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    return parameters


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
