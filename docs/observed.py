"""What a call did: what it returned, raised, warned of and wrote, in a few words."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch

REFUSALS = (RuntimeError, TypeError, ValueError, AttributeError)
"""What a call may raise; NotImplementedError is a RuntimeError."""

LONGEST = 90


def observed(call: Callable[[], Any], parameters: list[torch.nn.Parameter]) -> str:
    """What a call returned, raised, warned of and wrote, in a few words."""
    before = [_dense(p).clone() for p in parameters if p.grad is not None]
    said = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            returned = call()
        except REFUSALS as error:
            said.append(f"{type(error).__name__}: {_short(str(error))}")
        else:
            said += [] if returned is None else [f"norm {number(float(returned))}"]
    said += [f"{one.category.__name__}: {_short(str(one.message))}" for one in caught]
    after = [_dense(p) for p in parameters if p.grad is not None]
    said += _written(before, after)
    return "; ".join(said) or "silence"


def _dense(parameter: torch.nn.Parameter) -> torch.Tensor:
    gradient = parameter.grad
    assert gradient is not None
    return gradient.detach().to_dense() if gradient.is_sparse else gradient.detach()


def _written(before: list[torch.Tensor], after: list[torch.Tensor]) -> list[str]:
    """The gradients, each memory once, or that they were kept."""
    if all(torch.equal(_bits(old), _bits(new)) for old, new in zip(before, after, strict=True)):
        return ["gradients kept"] if after else []
    short = ["gradients " + _listed(tensors, 4) for tensors in (before, after)]
    return short[1:] if short[0] != short[1] else ["gradients " + _listed(after, 8)]


def _listed(tensors: list[torch.Tensor], digits: int) -> str:
    distinct = {tensor.data_ptr(): tensor for tensor in tensors}
    return ", ".join(_numbers(tensor, digits) for tensor in distinct.values())


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def _numbers(tensor: torch.Tensor, digits: int) -> str:
    return f"[{', '.join(number(one, digits) for one in tensor.reshape(-1).tolist())}]"


def number(one: complex, digits: int = 4) -> str:
    """A number in few digits."""
    if isinstance(one, complex):
        return f"{one.real:.{digits}g}{one.imag:+.{digits}g}j"
    return f"{one:.{digits}g}"


def _short(message: str) -> str:
    line = " ".join(message.replace("|", "\\|").split())
    return line if len(line) <= LONGEST else line[:LONGEST].rpartition(" ")[0] + " ..."
