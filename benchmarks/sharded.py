"""Clipping in several processes: how fast beside PyTorch's own, and what it takes as their number grows.

`python -m benchmarks.sharded` starts four processes over gloo and prints, from one run, the first and the later calls
of both. `python -m benchmarks.sharded --grow` asks PyTorch's fake process group, one process that answers for all, for
worlds of up to 4096: what the plan takes, how many messages a step has, how long they are, and the time on the host.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.testing._internal.distributed.fake_pg import FakeStore

from gradclip import ClipGradByGlobalNorm, ClipGradByNorm
from gradclip.torch import Clipper, clip_grad_norm_

PROCESSES = 4
ROUNDS = 9
CASES = {"2000 small": (2000, 16), "500 small": (500, 16), "8 large": (8, 2048)}
"""The number of DTensors, and the side of what each process has of them."""

WORLDS = (8, 64, 512, 4096)
TENSORS = 1000
MESHES: dict[str, Callable[[int], tuple[int, ...]]] = {
    "one dimension": lambda world: (world,),
    "two dimensions": lambda world: (world // 8, 8),
    "three dimensions": lambda world: (2, world // 8, 4),
}


def parameters(mesh: DeviceMesh, number: int, side: int) -> list[torch.nn.Parameter]:
    """Parameters cut along the last dimension of the mesh, and along the one before it where there is one."""
    placements = [Replicate() for _ in range(max(mesh.ndim - 2, 0))] + [
        Shard(axis) for axis in range(min(mesh.ndim, 2))
    ]
    found = []
    for _ in range(number):
        here = torch.randn(side, side)
        found.append(torch.nn.Parameter(DTensor.from_local(torch.zeros_like(here), mesh, placements, run_check=False)))
        found[-1].grad = DTensor.from_local(here, mesh, placements, run_check=False)
    return found


def taken(function: Callable[[], Any]) -> float:
    """The seconds of one call, after all processes have come to it."""
    dist.barrier()
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def compare(rank: int, store: str) -> None:
    """Both functions in turns, on the same parameters; nothing is clipped, so nothing is written."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=PROCESSES)
    mesh = init_device_mesh("cpu", (PROCESSES,))
    clip_grad_norm_(parameters(mesh, 3, 4), 1e9)  # compiles the kernels
    if rank == 0:
        print(f"{'case':12} {'':7} gradclip, ms  PyTorch, ms  ratio")
    for name, (number, side) in CASES.items():
        given = parameters(mesh, number, side)
        calls = {
            "gradclip": lambda given=given: clip_grad_norm_(given, 1e9),
            "PyTorch": lambda given=given: torch.nn.utils.clip_grad_norm_(given, 1e9),
        }
        first = {who: taken(call) for who, call in calls.items()}
        later: dict[str, list[float]] = {who: [] for who in calls}
        for _ in range(ROUNDS):
            for who, call in calls.items():
                later[who].append(taken(call))
        if rank == 0:
            show(name, "first", first["gradclip"], first["PyTorch"])
            show("", "later", statistics.median(later["gradclip"]), statistics.median(later["PyTorch"]))
    dist.destroy_process_group()


def show(name: str, when: str, ours: float, theirs: float) -> None:
    print(f"{name:12} {when:7} {1e3 * ours:12.2f} {1e3 * theirs:12.2f} {theirs / ours:6.1f}")


def grow() -> None:
    """The table of worlds, meshes and rules."""
    print(f"{'processes':>9} {'mesh':17} {'rule':11} {'plan, ms':>9} {'messages':>8} {'bytes':>7} {'step, ms':>9}")
    for world in WORLDS:
        for name, shape in MESHES.items():
            for rule, what in ((ClipGradByGlobalNorm(1e9), "global"), (ClipGradByNorm(1e9), "each tensor")):
                plan, sent, step = grown(world, shape(world), rule)
                print(f"{world:9} {name:17} {what:11} {1e3 * plan:9.1f} {len(sent):8} {sum(sent):7} {1e3 * step:9.2f}")


def grown(world: int, shape: tuple[int, ...], rule: Any) -> tuple[float, list[int], float]:
    """The seconds of the first step beyond those of a later one, the bytes of its messages, and the later seconds."""
    dist.init_process_group("fake", rank=0, world_size=world, store=FakeStore())
    try:
        given = parameters(init_device_mesh("cpu", shape), TENSORS, 4)
        clipper = Clipper(rule)
        start = time.perf_counter()
        clipper.clip_(given)
        first = time.perf_counter() - start
        later = []
        for _ in range(ROUNDS):
            start = time.perf_counter()
            clipper.clip_(given)
            later.append(time.perf_counter() - start)
        sent = messages(lambda: clipper.clip_(given))
        return first - statistics.median(later), sent, statistics.median(later)
    finally:
        dist.destroy_process_group()


def messages(function: Callable[[], Any]) -> list[int]:
    """The bytes of each message that a call sends."""
    sent: list[int] = []
    before = dist.all_reduce

    def all_reduce(tensor: torch.Tensor, *arguments: Any, **options: Any) -> Any:
        sent.append(tensor.nbytes)
        return before(tensor, *arguments, **options)

    dist.all_reduce = all_reduce
    try:
        function()
    finally:
        dist.all_reduce = before
    return sent


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sharded", description=__doc__)
    parser.add_argument("--grow", action="store_true", help="ask the fake process group for worlds of up to 4096")
    if parser.parse_args().grow:
        grow()
    else:
        mp.start_processes(compare, (tempfile.mktemp(),), nprocs=PROCESSES, start_method="fork")


if __name__ == "__main__":
    main()
