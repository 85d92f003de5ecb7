"""Where the gradients on a GPU lie, and all else on which it depends how they are read.

Compiled code asks for it where numba is installed, as it does on the CPU: a loop in Python takes longer than a GPU that
clips. What it does not describe, such as a tensor of one element, is asked in Python.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, NamedTuple

import numpy as np
import torch

from gradclip.engines import choice, torch_layout
from gradclip.engines.base import Tables
from gradclip.engines.torch_layout import DTYPE, FLOATS, LAYOUT, PLAIN, SHAPE

ALIGNMENT = 16
"""Bytes from which on wide loads may begin."""
TYPE_OF_DEVICE = {"cpu": 1, "cuda": 10 if torch.version.hip else 2}
"""DLPack's numbers."""


class Seen(NamedTuple):
    """The addresses of real strided tensors [T], and what of them a table for the kernels depends on."""

    addresses: np.ndarray
    key: Hashable


def seen(tensors: list[Any], tables: Tables) -> Seen | None:
    """What is to be known of tensors in order to read them; None if one is not real, strided and of a plain class."""
    return _described(tensors, tables.part("reader")) or _asked(tensors)


def _described(tensors: list[Any], kept: Tables) -> Seen | None:
    """What compiled code says of contiguous tensors on one device; None if it does not describe each."""
    place = _place(tensors[0])
    if place is None or choice.compiled(torch_layout) is None:
        return None
    from gradclip.engines import cpu_gather, cpu_layout

    table = kept.pop() if kept else None
    if table is None or table.words[cpu_layout.DEVICE] != place:
        exchange = cpu_gather.exchange_function(torch.Tensor)
        if not exchange:
            return None
        table = cpu_gather.Table(id(torch.Tensor), id(torch.nn.Parameter), exchange, device=place)
    if len(tensors) > table.words[cpu_layout.CAPACITY]:
        table.reserve_spans(2 * len(tensors))
    left = cpu_gather.entry("fill")(tensors, table.address)
    spans = table.spans[: len(tensors)]
    kept.append(table)
    if left and not _filled(tensors, table):
        return None
    addresses = spans[:, cpu_layout.ADDRESS].copy()
    shapes = spans[:, cpu_layout.ELEMENTS : cpu_layout.ROWS + 1].tobytes(), spans[:, cpu_layout.PITCH].tobytes()
    return Seen(addresses, (place, *shapes, _offsets(addresses)))


def _filled(tensors: list[Any], table: Any) -> bool:
    """Describe in Python the tensors of one element, of which compiled code does not see a lazy sign; false if others
    are left."""
    from gradclip.engines import cpu_gather, cpu_layout

    for index in np.flatnonzero(table.spans[: len(tensors), cpu_layout.CODE] == cpu_layout.REFUSED).tolist():
        tensor = tensors[index]
        if tensor.numel() != 1 or tensor.device != tensors[0].device or _asked([tensor]) is None:
            return False
        cpu_gather.place(table, index, tensor, tuple(tensor.shape))
        table.spans[index, cpu_layout.PITCH] = tensor.dim()
    return True


def _place(tensor: Any) -> int | None:
    """The device of a tensor as DLPack packs it into a word; None for another kind of device."""
    kind = TYPE_OF_DEVICE.get(tensor.device.type) if isinstance(tensor, torch.Tensor) else None
    return None if kind is None else kind | max(tensor.get_device(), 0) << 32


def _asked(tensors: list[Any]) -> Seen | None:
    """The same in Python."""
    if not PLAIN.issuperset(map(type, tensors)) or not {torch.strided}.issuperset(map(LAYOUT, tensors)):
        return None
    dtypes = tuple(map(DTYPE, tensors))
    if not FLOATS.issuperset(dtypes) or any(map(torch.Tensor.is_neg, tensors)):
        return None
    addresses = np.fromiter(map(torch.Tensor.data_ptr, tensors), np.int64)
    devices = frozenset(map(torch.Tensor.get_device, tensors))
    strides = tuple(map(torch.Tensor.stride, tensors))
    return Seen(addresses, (devices, _offsets(addresses), dtypes, tuple(map(SHAPE, tensors)), strides))


def _offsets(addresses: np.ndarray) -> bytes:
    """By how much each address misses one for wide loads; empty if none does."""
    return (addresses % ALIGNMENT).tobytes() if np.bitwise_or.reduce(addresses) % ALIGNMENT else b""
