"""An attribute of each object of a long list: a loop in Python takes longer to read it than the engine to clip."""

from __future__ import annotations

import ctypes
import types
from collections.abc import Callable
from typing import Any

import numpy as np

from gradclip.engines.cpu_gather import entry, type_is_second_word
from gradclip.engines.cpu_layout import REFUSED

GETSET_WORD, NAME, GET, CLOSURE = 5, 0, 1, 4
"""Where the object of a C attribute keeps its definition, and where this has the name, the getter and its closure."""


def reader(kinds: tuple[type, type], attribute: str, flag: str) -> Callable[[list[Any]], list[Any] | None] | None:
    """A function that reads an `attribute` in C of each object of just these classes, and leaves out those it is None.

    There may be none. It gives None where Python has to ask: an object is of another class, or has an attribute `flag`.
    """
    found = getter(kinds, attribute)
    if found is None:
        return None
    known = np.array([*map(id, kinds), *found, id(None)], np.int64)
    collect, address = entry("collect"), known.ctypes.data

    def read(objects: list[Any], known: np.ndarray[Any, Any] = known) -> list[Any] | None:  # which `address` is of
        values: list[Any] = [None] * len(objects)
        missing = REFUSED if any(hasattr(kind, flag) for kind in kinds) else collect(objects, values, flag, address)
        if missing:
            return None if missing == REFUSED else [value for value in values if value is not None]
        return values

    return read


def getter(kinds: tuple[type, type], attribute: str) -> tuple[int, int] | None:
    """The address of the C function behind an attribute that both classes inherit, and that of its closure."""
    owners = [next((base for base in kind.__mro__ if attribute in vars(base)), object) for kind in kinds]
    descriptor = vars(owners[0]).get(attribute)
    if owners[0] is not owners[1] or type(descriptor) is not types.GetSetDescriptorType or not type_is_second_word():
        return None
    place = (ctypes.c_int64 * (GETSET_WORD + 1)).from_address(id(descriptor))[GETSET_WORD]
    definition = (ctypes.c_int64 * (CLOSURE + 1)).from_address(place)
    if ctypes.string_at(definition[NAME]) != attribute.encode():
        return None
    return definition[GET], definition[CLOSURE]
