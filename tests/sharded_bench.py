"""A bench whose tensors lie in several processes: the laws are kept there as on one device, by all of them at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard
from torch.distributed.tensor.placement_types import _StridedShard

from gradclip.engines import torch as torch_engine
from gradclip.engines.base import Engine, Gradient
from gradclip.engines.torch_placement import Placed, Portion
from gradclip.engines.torch_ranks import sets_of
from gradclip.engines.torch_sharded import ShardedEngine
from gradclip.testing.bench import Bench, Values
from gradclip.torch.clipper import cpu_engine
from torch_tensors import make, read, unread

Lies = tuple[str, list[Placement]] | None
"""The name of a mesh and the placements on it; None for a plain tensor, the same in all processes."""


def along(axis: int, shape: tuple[int, ...]) -> Placement:
    """A shard along an axis, or a copy of what has none."""
    return Shard(axis % len(shape)) if shape else Replicate()


LAYOUTS: dict[str, Callable[[int, tuple[int, ...]], Lies]] = {
    "first axis": lambda i, shape: ("line", [along(0, shape)]),
    "last axis": lambda i, shape: ("line", [along(-1, shape)]),
    "copies": lambda i, shape: ("line", [Replicate()]),
    "two axes": lambda i, shape: ("grid", [along(0, shape), along(-1, shape)]),
    "strided": lambda i, shape: ("grid", [_StridedShard(0, split_factor=2) if shape else Replicate(), along(0, shape)]),
    "hybrid": lambda i, shape: ("grid", [Replicate(), along(0, shape)]),
    "half of the processes": lambda i, shape: ("half", [along(0, shape)]),
    "sums": lambda i, shape: ("line", [Partial()]),
    "sums of shards": lambda i, shape: ("grid", [Partial("avg"), along(0, shape)]),
}
EVERY = list(LAYOUTS.values())
LAYOUTS["mixed"] = lambda i, shape: [*EVERY[:7], lambda i, shape: None][i % 8](i, shape)
LAYOUTS["mixed otherwise"] = lambda i, shape: [*EVERY[:7], lambda i, shape: None][(3 * i + 5) % 8](i, shape)
SUMS = ("sums", "sums of shards")
"""Where a process has no elements to look at."""


def meshes() -> dict[str, DeviceMesh]:
    """The meshes of the layouts: all processes in a line, in two rows, and those of one row."""
    world = dist.get_world_size()
    grid = init_device_mesh("cpu", (2, world // 2), mesh_dim_names=("row", "place"))
    return {"line": init_device_mesh("cpu", (world,)), "grid": grid, "half": grid["place"]}


@dataclass(frozen=True)
class ShardedBench(Bench):
    """A bench for one layout. Tensors are DTensors or plain; each process makes its part of the same numbers."""

    layout: str = "mixed"
    meshes: Any = None

    def tensors(self, arrays: Sequence[Values]) -> list[Gradient]:
        return [self._placed(i, make(np.array(array), self.dtype)) for i, array in enumerate(arrays)]

    def _placed(self, i: int, whole: torch.Tensor) -> torch.Tensor:
        lies = LAYOUTS[self.layout](i, tuple(whole.shape))
        return whole if lies is None else distributed(whole, self.meshes[lies[0]], lies[1])

    def moments(self, arrays: Sequence[Values]) -> list[Gradient]:
        return [portion.local for portion in self.handed(self.tensors(arrays))]

    def handed(self, tensors: Sequence[Gradient]) -> list[Gradient]:
        return [Portion(getattr(t, "_local_tensor", t), placed_of(t)) for t in tensors]


def placed_of(tensor: torch.Tensor) -> Placed:
    if not isinstance(tensor, DTensor):
        return Placed(tuple(tensor.shape), tensor.dtype)
    return Placed(tuple(tensor.shape), tensor.dtype, tensor.device_mesh, tuple(tensor.placements))


def distributed(whole: torch.Tensor, mesh: DeviceMesh, placements: list[Placement]) -> DTensor:
    """`whole`, which all processes have, as a DTensor; of a sum each has a power of two of it."""
    placed = Placed(tuple(whole.shape), whole.dtype, mesh, tuple(placements))
    local = whole
    for axis in range(whole.dim()):
        local = local.index_select(axis, placed.indices(axis))
    for dimension in placed.unsummed:
        local = local * shares(mesh.size(dimension), placements[dimension])[mesh.get_local_rank(dimension)]
    return DTensor.from_local(
        local.contiguous(), mesh, placements, run_check=False, shape=whole.shape, stride=whole.stride()
    )


def shares(size: int, placement: Placement) -> list[float]:
    """Powers of two that make 1 together, or in the mean."""
    found = [0.5 ** (i + 1) for i in range(size - 1)] + [0.5 ** (size - 1)]
    return [share * (size if placement == Partial("avg") else 1.0) for share in found]


def whole_of(tensor: torch.Tensor) -> np.ndarray:
    """The numbers of a whole tensor, in all processes: each element comes from the first that has it."""
    if not isinstance(tensor, DTensor):
        return read(tensor)
    placed, local = placed_of(tensor), read(tensor._local_tensor)
    counts = placed.counts or bool(placed.unsummed)
    out = np.zeros(placed.shape, local.dtype)
    if counts:
        out[np.ix_(*(placed.indices(axis).numpy() for axis in range(out.ndim)))] = local
    groups = [tensor.device_mesh.get_group(i) for i in range(tensor.device_mesh.ndim)]
    flat = torch.from_numpy(out)
    for dimension, group in enumerate(groups):
        if not isinstance(tensor.placements[dimension], Replicate):
            dist.all_reduce(flat, group=group)
        else:
            dist.broadcast(flat, dist.get_process_group_ranks(group)[0], group=group)
        if tensor.placements[dimension] == Partial("avg"):
            flat /= dist.get_world_size(group)
    return flat.numpy()


def bench_of(layout: str, known: dict[str, DeviceMesh], inner: Engine) -> ShardedBench:
    engine = ShardedEngine(inner, sets_of(known.values()), torch.device("cpu"))
    return ShardedBench(engine, make, whole_of, unread=unread, layout=layout, meshes=known)


INNER = {"cpu": cpu_engine, "torch": lambda: torch_engine.CPU, "torch on a device": lambda: torch_engine.DEVICE}
