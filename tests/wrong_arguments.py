"""Every argument of a callable, given every wrong kind of thing: whether the answer is its own and in one sentence."""

from __future__ import annotations

import inspect
import math
import os
import traceback
import warnings
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any, TextIO

import numpy as np

import gradclip

SOURCE = str(Path(gradclip.__file__).parent)


def kinds() -> dict[str, Any]:
    """Things of all kinds, new each time; whatever an argument takes, most of them are wrong for it."""
    import torch

    return {
        "None": None, "True": True, "-1": -1, "0": 0, "0.5": 0.5, "2": 2, "nan": math.nan, "inf": math.inf,
        "a huge number": 10**30, "a huger one": 10**400, "one too long to write": 10**5000, "[it]": [10**5000],
        "a decimal NaN": Decimal("sNaN"), "an array without axes": np.array(2.0), "a closed file": closed_file(),
        "1j": 1j, "a word": "x", "no word": "", "bytes": b"x", "[]": [], "{}": {},
        "(1, 2)": (1, 2), "['x']": ["x"], "[None]": [None], "{'a': 1}": {"a": 1}, "an object": object(),
        "a function": lambda *args, **kwargs: None, "a class": int, "an array": np.array([1.0, 2.0]),
        "a tensor": torch.tensor([1.0, 2.0]), "a rule": gradclip.ClipGradByNorm(1.0), "a module": torch.nn.Linear(1, 1),
    }  # fmt: skip


def closed_file() -> TextIO:
    with open(os.devnull) as file:
        return file


def is_own(error: BaseException) -> bool:
    """Whether an error was raised on purpose, by a `raise` of this library, or is what the system says of a file."""
    if isinstance(error, OSError):
        return True
    last = traceback.extract_tb(error.__traceback__)[-1]
    return last.filename.startswith(SOURCE) and (last.line or "").startswith("raise")


def where(error: BaseException) -> str:
    """The line of this library that an internal error comes from."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(SOURCE)]
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "outside"


def internal_errors(
    function: Callable[..., Any], valid: Callable[[], dict[str, Any]], use: Callable[[Any], object]
) -> list[str]:
    """What goes wrong inside where one argument is of a wrong kind; what is accepted is used as it would be.

    The other arguments are `valid`, which has "*" for what stands in front.
    """
    found = []
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            continue
        many = parameter.kind is parameter.VAR_POSITIONAL
        for kind, value in kinds().items():
            given = valid()
            given["*" if many else name] = [value] if many else value
            try:
                use(function(*given.pop("*", ()), **given))
            except Exception as error:  # noqa: BLE001  # whichever it is, it is looked at
                if not is_own(error) and not (name == "need_clip" and callable(value)):  # that fails by itself
                    found.append(f"{name} = {kind}: {type(error).__name__}: {str(error)[:70]} ({where(error)})")
    return found


def assert_answered(function: Callable[..., Any], valid: Callable[[], dict[str, Any]], use: Callable[[Any], object]):
    """With valid arguments it works, and with wrong ones it works or says in a sentence what is wrong."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        given = valid()
        use(function(*given.pop("*", ()), **given))
        wrong = internal_errors(function, valid, use)
    assert not wrong, f"{len(wrong)} internal errors:\n" + "\n".join(wrong[:12])
