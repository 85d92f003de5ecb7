"""How candidates take turns: one sample of each in random order, round after round, and how a sample is timed.

On the CPU only quiet samples count.
"""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import repeat
from typing import NamedTuple, Protocol

import torch

ENOUGH = 25
"""Quiet samples of each candidate, after which a comparison is done before its time is up."""

FEW = 7
"""With fewer quiet samples than this, the faster half of all samples is used, and the result says so."""

SAMPLE_SECONDS = 1e-3
"""A candidate in cache is called until this much time is over, because a clock cannot read one microsecond."""

LONGEST_LOOP = 200

CLOCK_RATE = 2e9
"""Cycles in a second of a fast GPU; on a slower one `torch.cuda._sleep` takes longer, which does no harm."""
AHEAD = 2e-4
"""Seconds that the device is kept busy beyond the time that the host needed for the call before."""

WARM_CALLS = 4
"""Calls before a sample in cache: the probe of the memory has emptied all caches."""


class Candidate(NamedTuple):
    """A thing to time; `before` and `after` are not timed."""

    name: str
    call: Callable[[], object]
    before: Callable[[], object] | None = None
    after: Callable[[], object] | None = None


class Timing(NamedTuple):
    """The times of one candidate in seconds; `taken` counts the noisy samples too."""

    samples: list[float]
    quiet: int
    taken: int

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    @property
    def quartiles(self) -> tuple[float, float]:
        if len(self.samples) < 2:
            return self.samples[0], self.samples[0]
        low, _, high = statistics.quantiles(self.samples, n=4, method="inclusive")
        return low, high

    @property
    def trusted(self) -> bool:
        return self.quiet >= FEW


Timings = dict[str, Timing]
"""Those of several candidates, by name."""


class Witness(Protocol):
    """Looks at the machine before and after a sample, and says whether it counts."""

    def before(self) -> None: ...
    def after(self) -> bool: ...


class Plan(NamedTuple):
    """How long and how often to sample."""

    quiet: Witness
    enough: int = ENOUGH
    least: int = 3


class Unwatched:
    """A witness to whom every sample counts."""

    def before(self) -> None:
        """Nothing is waited for."""

    def after(self) -> bool:
        return True


Sampler = Callable[[Candidate], tuple[float, bool]]
"""Takes a sample of a candidate: the seconds of one call, and whether it counts."""


def compare(candidates: list[Candidate], plan: Plan, seconds: float, in_cache: bool = False) -> Timings:
    """The timings of candidates that took turns on the CPU for about `seconds`, while the machine was quiet."""
    loops = {one.name: _loops(one) if in_cache else 1 for one in candidates}
    return take_turns(candidates, lambda one: sample(one, plan.quiet, loops[one.name], in_cache), plan, seconds)


def take_turns(candidates: list[Candidate], take: Sampler, plan: Plan, seconds: float) -> Timings:
    """The timings of candidates that took turns for at most `seconds`, or a little more for the least of samples."""
    kept: dict[str, list[float]] = {one.name: [] for one in candidates}
    every: dict[str, list[float]] = {one.name: [] for one in candidates}
    order, random_order = list(candidates), random.Random(0)
    end = time.perf_counter() + seconds
    with _no_collection():
        for one in candidates:
            take(one)  # the first call compiles
        while _goes_on(kept, every, plan, end):
            random_order.shuffle(order)
            for one in order:
                took, counts = take(one)
                every[one.name].append(took)
                if counts:
                    kept[one.name].append(took)
    return {name: _timing(kept[name], every[name]) for name in kept}


def _goes_on(kept: dict[str, list[float]], every: dict[str, list[float]], plan: Plan, end: float) -> bool:
    if any(len(samples) < plan.least for samples in every.values()):
        return True
    return time.perf_counter() < end and any(len(samples) < plan.enough for samples in kept.values())


def _timing(kept: list[float], every: list[float]) -> Timing:
    """Of a busy machine, the faster half: the rest tells how long other work ran."""
    faster = sorted(every)[: (len(every) + 1) // 2]
    return Timing(kept if len(kept) >= FEW else faster, len(kept), len(every))


def sample(one: Candidate, quiet: Witness, loops: int = 1, in_cache: bool = False) -> tuple[float, bool]:
    """Seconds for one call, and whether the sample counts."""
    if one.before is not None:
        one.before()
    quiet.before()
    for _ in range(WARM_CALLS if in_cache else 0):
        one.call()
    start = time.perf_counter()
    for _ in repeat(None, loops):
        one.call()
    took = time.perf_counter() - start
    counts = quiet.after()
    if one.after is not None:
        one.after()
    return took / loops, counts


def _loops(one: Candidate) -> int:
    """How many calls make a sample that a clock can read."""
    if one.before is not None:
        return 1
    one.call()
    start = time.perf_counter()
    one.call()
    return max(1, min(LONGEST_LOOP, int(SAMPLE_SECONDS / (time.perf_counter() - start))))


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keep Python's garbage collector out of the samples."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class Clock(Protocol):
    """Takes a sample of a candidate from idle, or queued behind other work."""

    def from_idle(self, one: Candidate) -> tuple[float, bool]: ...
    def queued(self, one: Candidate) -> tuple[float, bool]: ...


class HostClock:
    """The clock of the host, which knows no queue."""

    def from_idle(self, one: Candidate) -> tuple[float, bool]:
        return sample(one, Unwatched())

    queued = from_idle


class CudaClock:
    """Seconds between two events on the device, before and after a call; its cache holds nothing of the gradients."""

    def __init__(self, device: torch.device) -> None:
        self._begin, self._end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self._other = torch.ones(2 * torch.cuda.get_device_properties(device).L2_cache_size // 4, device=device)
        self._host_seconds: dict[str, float] = {}

    def from_idle(self, one: Candidate) -> tuple[float, bool]:
        self._ready(one)
        return self._timed(one)

    def queued(self, one: Candidate) -> tuple[float, bool]:
        self._ready(one)
        seconds = 1.5 * self._host_seconds.get(one.name, 0.0) + AHEAD
        torch.cuda._sleep(int(seconds * CLOCK_RATE))
        return self._timed(one)

    def _ready(self, one: Candidate) -> None:
        if one.before is not None:
            one.before()
        self._other.sum()
        torch.cuda.synchronize()

    def _timed(self, one: Candidate) -> tuple[float, bool]:
        self._begin.record()
        start = time.perf_counter()
        one.call()
        self._host_seconds[one.name] = time.perf_counter() - start
        self._end.record()
        self._end.synchronize()
        if one.after is not None:
            one.after()
        return self._begin.elapsed_time(self._end) / 1e3, True
