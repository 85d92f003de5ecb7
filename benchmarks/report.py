"""What was found, as tables: the ratios that are to be reached first, then everything that they rest on."""

from __future__ import annotations

from typing import NamedTuple

from benchmarks.goals import Found
from benchmarks.growth import Curve
from benchmarks.growth import tables as growth_tables
from benchmarks.sampling import FEW
from benchmarks.start import Start
from benchmarks.tables import RATIO_HEAD, TIME_HEAD, Table, bound, counts, goal_line, median, time_line


class Results(NamedTuple):
    """All that a run found."""

    cases: list[Found]
    curves: list[Curve]
    starts: list[Start]


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
        goals += [goal_line(found, row) for row in found.case.rows]
        times += [time_line(found, name) for name in found.timings if found.case.rows]
        memory += [_memory_line(found, name) for name in found.timings if not found.case.rows]
    every = [
        Table("Ratios and goals", RATIOS, RATIO_HEAD, goals),
        Table("Times", SAMPLES, TIME_HEAD, times),
        Table("The limit against other ways of moving the same bytes", MEMORY, MEMORY_HEAD, memory),
        *[Table(title, GROWTH, head, lines) for title, head, lines in growth_tables(results.curves)],
        *starting(results),
    ]
    return [table for table in every if table.lines]


def starting(results: Results) -> list[Table]:
    """What a new process pays, if that was measured."""
    lines = [
        [one.title, f"{one.seconds:.3f}", bound("≤", one.goal), str(one.runs), one.verdict] for one in results.starts
    ]
    return [Table("Starting", STARTING, ["what", "median", "goal", "processes", ""], lines)]


MEMORY_HEAD = ["gradients", "how", "median", "GB/s, bytes counted once", "samples"]


def _memory_line(found: Found, name: str) -> list[str]:
    timing = found.timings[name]
    return [found.case.name, name, median(timing), f"{found.bytes / timing.median / 1e9:.1f}", counts(timing)]
