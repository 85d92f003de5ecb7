"""Each figure against the last one that was committed, with the noise of both.

A figure is a ratio of two medians of one run, because the times of two runs say little about each other, and it is
compared with one of such a processor, because even ratios differ among them. Its noise is that of both medians: half of
what lies between the quartiles of the samples, over the median, added up as squares are.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.goals import Found, Row
from benchmarks.sampling import Timing
from benchmarks.tables import Table

LAST = Path(__file__).resolve().parent.parent / "docs" / "benchmarks" / "cpu.json"
LEAST = 0.05
"""A change of so little is none, whatever the noise: machines differ by it."""

Samples = dict[str, dict[str, Timing]]
"""The timings of an earlier run, by case and candidate."""


class Change(NamedTuple):
    """A ratio of gradclip's time, before and now, and how much of its change may be noise."""

    case: str
    over: str
    before: float
    now: float
    noise: float

    @property
    def by(self) -> float:
        return self.now / self.before - 1.0

    @property
    def verdict(self) -> str:
        """Whether gradclip became slower or faster, for all that can be told."""
        if abs(self.by) <= max(LEAST, self.noise):
            return "same"
        return "slower" if self.by > 0.0 else "faster"


def last_run(processor: str, path: Path = LAST) -> Samples:
    """The timings that were saved there; none where there is no file, or one of another processor."""
    if not path.exists():
        return {}
    data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if data["machine"]["processor"] != processor:
        return {}
    return {
        case: {name: Timing(one["samples"], one["quiet"], one["taken"]) for name, one in candidates.items()}
        for case, candidates in data["seconds"].items()
    }


def changes_of(found: Found, last: Samples) -> list[Change]:
    """The change of each ratio of a case that was measured before, too."""
    before = last.get(found.case.name, {})
    return [
        change(found, row, goal.candidate, before)
        for row in found.case.rows
        for goal in (row.limit, row.peer)
        if goal is not None and {row.ours, goal.candidate} <= before.keys()
    ]


def change(found: Found, row: Row, other: str, before: dict[str, Timing]) -> Change:
    """The change of gradclip's time over that of another candidate."""
    pairs = [(timings[row.ours], timings[other]) for timings in (before, found.timings)]
    then, now = (ours.median / theirs.median for ours, theirs in pairs)
    noise = math.hypot(*(spread(timing) for pair in pairs for timing in pair))
    return Change(found.case.name, other, then, now, noise)


def spread(timing: Timing) -> float:
    """Half of what lies between the quartiles, over the median."""
    low, high = timing.quartiles
    return (high - low) / 2.0 / timing.median


NOTE = (
    "The time of gradclip over that of a limit or a peer, in the last committed figures and in these. What is "
    "not beyond the noise of both runs and 5 % is the same."
)


def table(found: list[Found], last: Samples) -> Table:
    """All changes; the head of the table stays where there are none."""
    lines = [cells(one) for case in found for one in changes_of(case, last)]
    return Table("Against the last figures", NOTE, ["gradients", "over", "last", "now", "change", "noise", ""], lines)


def cells(one: Change) -> list[str]:
    """A change as a line of the table."""
    percent = f"{100 * one.by:+.0f} %", f"± {100 * one.noise:.0f} %"
    return [one.case, one.over, f"{one.before:.2f}", f"{one.now:.2f}", *percent, one.verdict]
