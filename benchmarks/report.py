"""What was found, as tables: the ratios that are to be reached first, then everything that they rest on."""

from __future__ import annotations

from typing import NamedTuple

from benchmarks.cases import Case, Goal, Row
from benchmarks.growth import Curve
from benchmarks.growth import tables as growth_tables
from benchmarks.sampling import FEW, Timing
from benchmarks.start import Start


class Found(NamedTuple):
    """A case, the bytes of its gradients, and the timings of its candidates."""

    case: Case
    bytes: int
    timings: dict[str, Timing]


class Results(NamedTuple):
    """All that a run found."""

    cases: list[Found]
    curves: list[Curve]
    starts: list[Start]


class Table(NamedTuple):
    """A table with what is to be known to read it."""

    title: str
    note: str
    head: list[str]
    lines: list[list[str]]


RATIOS = (
    "The time of gradclip over a limit measured in the same run, and the time of a peer over that of gradclip. A line "
    "that ends in ~ rests on a median with few quiet samples."
)
SAMPLES = (
    "Milliseconds. Samples are the quiet ones (nothing else ran on the machine), of all that were taken; with fewer "
    f"than {FEW} quiet ones it is the median of the faster half of all, and marked with ~: do not trust it."
)
MEMORY = "Were anything here faster than the limit's own read or write, the limit would be wrong."
GROWTH = "Microseconds of one clip by global norm that finds nothing to clip."
STARTING = "Seconds in new processes."


def tables(results: Results) -> list[Table]:
    """All tables of a run; those without a line are left out."""
    goals, times, memory = [], [], []
    for found in results.cases:
        goals += [_goal_line(found, row) for row in found.case.rows]
        times += [_time_line(found, name) for name in found.timings if found.case.rows]
        memory += [_memory_line(found, name) for name in found.timings if not found.case.rows]
    starts = [
        [one.title, f"{one.seconds:.3f}", _bound("≤", one.goal), str(one.runs), one.verdict] for one in results.starts
    ]
    every = [
        Table("Ratios and goals", RATIOS, ["gradients", "gradclip", "over", "ratio", "peer", "ratio", "goal"], goals),
        Table("Times", SAMPLES, ["gradients", "candidate", "median", "quartiles", "samples"], times),
        Table("The limit against other ways of moving the same bytes", MEMORY, MEMORY_HEAD, memory),
        *[Table(title, GROWTH, head, lines) for title, head, lines in growth_tables(results.curves)],
        Table("Starting", STARTING, ["what", "median", "goal", "processes", ""], starts),
    ]
    return [table for table in every if table.lines]


MEMORY_HEAD = ["gradients", "how", "median", "GB/s, bytes counted once", "samples"]


def _goal_line(found: Found, row: Row) -> list[str]:
    over_limit, over_ours = ratios(found, row)
    return [
        found.case.name,
        row.ours,
        "" if row.limit is None else row.limit.candidate,
        _against(over_limit, "≤", row.limit),
        "" if row.peer is None else row.peer.candidate,
        _against(over_ours, "≥", row.peer),
        verdict(found, row),
    ]


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


def _against(ratio: float | None, sign: str, goal: Goal | None) -> str:
    if ratio is None or goal is None:
        return ""
    return f"{ratio:.2f} {_bound(sign, goal.ratio)}".strip()


def _bound(sign: str, value: float | None) -> str:
    return "" if value is None else f"({sign} {value:g})"


def _time_line(found: Found, name: str) -> list[str]:
    timing = found.timings[name]
    low, high = timing.quartiles
    return [found.case.name, name, _median(timing), f"{_ms(low)} to {_ms(high)}", _counts(timing)]


def _memory_line(found: Found, name: str) -> list[str]:
    timing = found.timings[name]
    return [found.case.name, name, _median(timing), f"{found.bytes / timing.median / 1e9:.1f}", _counts(timing)]


def _median(timing: Timing) -> str:
    return ("" if timing.trusted else "~") + _ms(timing.median)


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.2f}" if seconds >= 1e-3 else f"{1e3 * seconds:.4f}"


def _counts(timing: Timing) -> str:
    return f"{timing.quiet} of {timing.taken}"
