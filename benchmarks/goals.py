"""What is compared, and whether it reaches what is to be reached."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from benchmarks.sampling import Candidate, Timings
from benchmarks.workloads import Workload


class Goal(NamedTuple):
    """What to compare with, and the ratio to reach: at most over a limit, at least for a peer. None: only shown."""

    candidate: str
    ratio: float | None = None


class Row(NamedTuple):
    """A line of the table: the time of `ours` over that of a limit, and the time of a peer over that of `ours`."""

    ours: str
    limit: Goal | None
    peer: Goal | None


class Case(NamedTuple):
    """Candidates that take turns on the gradients of one workload, and the lines that they give."""

    workload: str
    dtype: str
    title: str
    candidates: Callable[[Workload], list[Candidate]]
    rows: list[Row]
    in_cache: bool = False

    @property
    def name(self) -> str:
        return f"{self.workload} {self.dtype}, {self.title}"


class Found(NamedTuple):
    """A case, the bytes of its gradients, and the timings of its candidates."""

    case: Case
    bytes: int
    timings: Timings


def ratios(found: Found, row: Row) -> tuple[float | None, float | None]:
    """Ours over the limit, and the peer over ours; None where there is none."""
    ours = found.timings[row.ours].median
    over_limit = None if row.limit is None else ours / found.timings[row.limit.candidate].median
    over_ours = None if row.peer is None else found.timings[row.peer.candidate].median / ours
    return over_limit, over_ours


def verdict(found: Found, row: Row) -> str:
    """Whether the goals are reached, and what keeps from it; nothing where there is no goal."""
    over_limit, over_ours = ratios(found, row)
    missed = []
    if row.limit is not None and row.limit.ratio is not None and over_limit is not None:
        missed.append((over_limit / row.limit.ratio - 1, ""))
    if row.peer is not None and row.peer.ratio is not None and over_ours is not None:
        missed.append((1 - over_ours / row.peer.ratio, _ceiling(found, row)))
    if not missed:
        return ""
    worst, why = max(missed)
    words = "reached" if worst <= 0 else f"missed by {100 * worst:.1f} %{why}"
    return words if trusted(found, row) else f"{words} ~"


def _ceiling(found: Found, row: Row) -> str:
    """What the ratio to the peer would be at the limit, where even that is below the goal."""
    if row.limit is None or row.peer is None or row.peer.ratio is None:
        return ""
    most = found.timings[row.peer.candidate].median / found.timings[row.limit.candidate].median
    return "" if most >= row.peer.ratio else f": at the limit itself it would be {most:.2f}"


def trusted(found: Found, row: Row) -> bool:
    """Whether every median of a row rests on enough quiet samples."""
    names = [row.ours, *(goal.candidate for goal in (row.limit, row.peer) if goal is not None)]
    return all(found.timings[name].trusted for name in names)


def run(
    cases: list[Case],
    make: Callable[[str, str], Workload],
    compare: Callable[[Case, Workload, float], Timings],
    seconds: float,
) -> Iterator[Found]:
    """The timings of each case; a workload is made once for its cases, and time that one leaves goes to the next."""
    end, left = time.perf_counter() + seconds, len(cases)
    for (name, dtype), group in itertools.groupby(cases, key=lambda case: (case.workload, case.dtype)):
        workload = make(name, dtype)
        for case in group:
            workload.restore()
            print(f"measuring {case.name}", file=sys.stderr)
            share = (end - time.perf_counter()) / left
            yield Found(case, workload.bytes, compare(case, workload, share))
            left -= 1
        del workload  # before room is made for the next one


def as_data(cases: list[Found]) -> dict[str, Any]:
    """Every ratio and every sample."""
    rows = []
    for found in cases:
        for row in found.case.rows:
            limit, peer = ratios(found, row)
            rows.append({"case": found.case.name, **row._asdict(), "over_limit": limit, "peer_over_ours": peer})
            rows[-1] |= {"verdict": verdict(found, row)}
    return {"rows": rows, "seconds": {found.case.name: seconds_of(found.timings) for found in cases}}


def seconds_of(timings: Timings) -> dict[str, Any]:
    """The median and the samples of each candidate."""
    return {name: {"median": timing.median, **timing._asdict()} for name, timing in timings.items()}
