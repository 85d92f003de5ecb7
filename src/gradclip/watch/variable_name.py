"""What the script calls an object: several optimizers of one class are told apart by it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from types import FrameType, GetSetDescriptorType
from typing import Any

from torch.optim import Optimizer

from gradclip.watch.call_site import package_of

WRAPPED = ("optimizer", "_optimizer")
"""What Accelerate and Lightning call the optimizer in one of theirs, which has the name that the script gave."""


def variable_of(thing: object) -> str:
    """The name that the script has for `thing`, "" if none is found: of its outermost function that has one.

    That is the one that tells things apart: further in they are all called `optimizer`. An attribute has a name, too.
    """
    for frame in reversed(list(_frames_of_the_script())):
        for names in (frame.f_locals, frame.f_globals):
            found = _name_in(names, thing)
            if found:
                return found
    return ""


def _frames_of_the_script() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if not package_of(frame.f_code.co_filename):
            yield frame
        frame = frame.f_back


def _name_in(names: Mapping[str, Any], thing: object) -> str:
    """The first of the names that is that of the thing, or of what has it as an attribute."""
    for name, value in list(names.items()):
        if value is thing or _wraps(value, thing):
            return name
        if inside := _place_in(value, thing):
            return f"{name}{inside}"
    return ""


def _place_in(value: object, thing: object) -> str:
    """Where in a list, a dict or an object the thing is, as it is written behind its name; "" if nowhere."""
    if type(value) is list or type(value) is tuple:
        return next((f"[{place}]" for place, one in enumerate(list(value)) if one is thing), "")
    if type(value) is dict and "__builtins__" not in value:  # or it is all the names of a module
        return next((f"[{key!r}]" for key, one in list(value.items()) if one is thing and type(key) in (str, int)), "")
    return next((f".{attribute}" for attribute, one in list(_attributes_of(value).items()) if one is thing), "")


def _wraps(value: object, thing: object) -> bool:
    """Whether this is an optimizer around `thing`, which goes by its name."""
    return issubclass(type(value), Optimizer) and any(_attributes_of(value).get(name) is thing for name in WRAPPED)


def _attributes_of(value: object) -> Mapping[str, Any]:
    """What an object of the script's has, without asking itself, which may run code of the script."""
    own = next((vars(kind)["__dict__"] for kind in type(value).__mro__ if "__dict__" in vars(kind)), None)
    found: Mapping[str, Any] = own.__get__(value) if isinstance(own, GetSetDescriptorType) else {}
    return {} if issubclass(type(value), type) else found
