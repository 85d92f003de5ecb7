"""When a sample counts: only if nothing else ran on the machine while it was taken.

Three witnesses: how many tasks of others could run, whether a thread of ours was put aside, and how long it takes to
read a buffer larger than the caches, which also empties them.
"""

from __future__ import annotations

import math
import time
from pathlib import Path

import torch

from benchmarks.limits import Limit

try:
    import resource
except ModuleNotFoundError:  # Windows
    resource = None  # type: ignore[assignment]

FLUSH_BYTES = 96 << 20
SLACK = 1.25
"""A probe this much slower than the fastest one shares the memory with somebody."""

PATIENCE = 0.4
"""Seconds to wait for the others to be done before a sample is taken all the same."""


class Quiet:
    """Looks at the machine before and after a sample."""

    def __init__(self, flush_bytes: int = FLUSH_BYTES, patience: float = PATIENCE) -> None:
        self._patience = patience
        self._buffer = torch.ones(flush_bytes // 4)
        self._probe = Limit([self._buffer])
        self._best = math.inf
        self._fine = True
        self._switches = 0
        for _ in range(5):
            self._look()

    def before(self) -> None:
        """Empty the caches, wait for a quiet moment, and remember whether it came."""
        end = time.perf_counter() + self._patience
        self._look()
        while not self._fine and time.perf_counter() < end:
            time.sleep(0.002)
            self._look()

    def _look(self) -> None:
        start = time.perf_counter()
        self._probe.read()
        took = time.perf_counter() - start
        self._best = min(self._best, took)
        self._fine = took <= SLACK * self._best and others_running() == 0
        self._switches = preempted()

    def after(self) -> bool:
        """Whether the sample that was taken since `before` counts."""
        return self._fine and preempted() == self._switches and others_running() == 0


def preempted() -> int:
    """How often a thread of this process was put aside for other work."""
    return 0 if resource is None else resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def others_running() -> int:
    """The tasks of other processes that run or could run now; 0 where the system does not tell."""
    try:
        runnable = int(Path("/proc/loadavg").read_text().split()[3].split("/")[0])
    except OSError:
        return 0
    # Threads of ours that wait for their next work in a loop are counted as running too.
    return max(0, runnable - sum(_state(stat) == "R" for stat in Path("/proc/self").glob("task/*/stat")))


def _state(stat: Path) -> str:
    try:
        return stat.read_text().rpartition(")")[2].split()[0]
    except OSError:  # it has ended
        return ""
