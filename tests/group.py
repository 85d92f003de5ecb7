"""A group of processes for tests: real ones, over gloo, that go through cases one after another.

A script calls `main(cases)`. It forks as many processes as its first argument says; each calls every case, and what
went wrong in any of them is printed as JSON, case by case. A case that hangs ends the script after a minute, with the
stacks of all processes.
"""

from __future__ import annotations

import faulthandler
import json
import multiprocessing
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def folder() -> str:
    """Where cases may leave what other processes find: the tests say where."""
    return os.environ.get("FOLDER") or tempfile.gettempdir()


def still_alive() -> None:
    """Say that a case goes on: it may take another minute."""
    faulthandler.dump_traceback_later(SECONDS, exit=True)


Case = Callable[[], None]
SECONDS = 60


def work(rank: int, world: int, store: str, cases: Mapping[str, Case], results: Any) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    found = {}
    for name, case in cases.items():
        still_alive()
        with ThreadPoolExecutor(1) as thread:
            error = thread.submit(case).exception()
        if error is not None:
            found[name] = f"rank {rank}: {''.join(traceback.format_exception(error))}"
            print(name, found[name], file=sys.stderr, flush=True)
        dist.barrier()
    faulthandler.cancel_dump_traceback_later()
    results.put((rank, found))
    dist.destroy_process_group()


def main(cases: Mapping[str, Case], arguments: Sequence[str] = sys.argv[1:]) -> None:
    """Run the cases in so many processes as the first argument says; more arguments choose some of them."""
    world, *names = arguments
    chosen = {name: case for name, case in cases.items() if not names or name in names}
    results = multiprocessing.get_context("fork").SimpleQueue()
    store = tempfile.mktemp()
    mp.start_processes(work, (int(world), store, chosen, results), nprocs=int(world), start_method="fork")
    found = [errors for _, errors in sorted(results.get() for _ in range(int(world)))]
    print(json.dumps({name: [one[name] for one in found if name in one] for name in chosen}))
