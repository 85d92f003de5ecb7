"""What a call did: what it returned, raised, warned of and wrote, in a few words."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

REFUSALS = (RuntimeError, TypeError, ValueError, AttributeError, AssertionError, OSError)
"""What a call may raise; NotImplementedError is a RuntimeError."""

LONGEST = 90

Values = np.ndarray[Any, np.dtype[Any]]
Module = Any
"""A framework's clipping functions, or gradclip's with the same names."""


class Input(NamedTuple):
    """An input, how to run it with the functions of a module, and which of the two is right and why."""

    title: str
    run: Callable[[Module], str]
    why: str


class Page(NamedTuple):
    """What is compared: a framework's `theirs` with gradclip's `ours`, on `inputs`."""

    framework: str
    version: str
    file: str
    introduction: str
    inputs: Sequence[Input]
    theirs: Module
    ours: Module


def observed(call: Callable[[], Any], read: Callable[[], list[Values]]) -> str:
    """What a call returned, raised, warned of and wrote. `read` gives the gradients, each memory once, in float64."""
    before = read()
    said = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            returned = call()
        except REFUSALS as error:
            said.append(f"{type(error).__name__}: {_short(str(error))}".removesuffix(": "))
        else:
            said += [] if returned is None else [f"norm {number(float(returned))}"]
    said += [f"{one.category.__name__}: {_short(str(one.message))}" for one in caught]
    said += _written(before, read())
    return "; ".join(said) or "silence"


def off(found: float, truth: float) -> str:
    """How far a number is from the truth, in words."""
    if not math.isfinite(found):
        return str(found)
    error = abs(found / truth - 1)
    return "right to 1e-6" if error < 1e-6 else f"wrong by ~{100 * error:.2g} %"


def _written(before: list[Values], after: list[Values]) -> list[str]:
    """The gradients, or that they were kept."""
    if all(_bits(old) == _bits(new) for old, new in zip(before, after, strict=True)):
        return ["gradients kept"] if after else []
    short = ["gradients " + _listed(arrays, 4) for arrays in (before, after)]
    return short[1:] if short[0] != short[1] else ["gradients " + _listed(after, 8)]


def _bits(array: Values) -> bytes:
    return np.where(np.isnan(array), np.nan, array).tobytes()


def _listed(arrays: list[Values], digits: int) -> str:
    return ", ".join(f"[{', '.join(number(one, digits) for one in array.reshape(-1).tolist())}]" for array in arrays)


def number(one: complex, digits: int = 4) -> str:
    """A number in few digits."""
    if isinstance(one, complex):
        return f"{one.real:.{digits}g}{one.imag:+.{digits}g}j"
    return f"{one:.{digits}g}"


def _short(message: str) -> str:
    line = " ".join(message.replace("|", "\\|").split())
    return line if len(line) <= LONGEST else line[:LONGEST].rpartition(" ")[0] + " ..."
