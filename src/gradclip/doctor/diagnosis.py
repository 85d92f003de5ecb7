"""From a run that was watched to what is wrong with its clipping."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from gradclip.doctor.accepted import accepted_with, is_accepted
from gradclip.doctor.problems import NEVER, NONFINITE, OTHER_OPTIMIZER, PROBLEMS
from gradclip.errors import shown
from gradclip.telemetry.folder import EVENTS, warn_of
from gradclip.telemetry.lines import fits, read_lines
from gradclip.telemetry.runs import Run, folders_of, read_run
from gradclip.watch.journal import ABOVE, CALLS, OTHER_MODEL, OVERFLOW, SCRIPT, UNTRAINED, Flaw

RARE = 0.2
"""A call that is wrong in fewer of the steps has a reason there: a step that the script left out, an evaluation."""
MOST_NAMED = 3
MOST_APART = 10
"""A generator may step once while its critic steps so many times."""
LINE = {"step": int, "calls": [str], "flaws": [[str]], "missing": [str]}
CLIPS = {"measured", "unclipped"}
"""What a line of calls has, and what it may have."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: its name, a sentence, the line of the call, the first step and how many of how many.

    What the project has `accepted` is meant as it is.

    >>> finding = Finding("twice", "clips twice", "keep one", "train.py:31", since=0, steps=600, of=600)
    >>> finding.to_dict()["where"]
    'train.py:31'
    """

    problem: str
    sentence: str
    cure: str
    where: str
    since: int
    steps: int
    of: int
    accepted: bool = False

    def to_dict(self) -> dict[str, Any]:
        """The finding as plain data."""
        return asdict(self)


class RecordedRun(NamedTuple):
    """The run of one optimizer, and the lines of its `calls.jsonl` with the number of steps that each holds for."""

    run: Run
    calls: list[tuple[dict[str, Any], int]]

    @property
    def script(self) -> Mapping[str, Any]:
        """What is known of the script."""
        return dict(self.run.about.get(SCRIPT, {}))

    @property
    def clips(self) -> bool:
        """Whether anything clipped in at least half of the steps."""
        return 2 * sum(steps for line, steps in self.calls if line["calls"]) >= max(1, len(self.run))

    @property
    def is_silent(self) -> bool:
        """Whether it is known what the script did around the steps, and in hardly any of them something was called."""
        called = [steps for line, steps in self.calls if line["calls"] or line["flaws"] or line.get("measured")]
        return bool(self.calls) and sum(called) < RARE * len(self.run)

    @property
    def is_one_number(self) -> bool:
        """Whether all that is trained is a single number, such as a temperature, which nobody clips."""
        shapes = self.run.about.get("parameters", {})
        return bool(shapes) and sum(map(math.prod, shapes.values())) <= 1


def diagnose(folder: str | os.PathLike[str]) -> list[Finding]:
    """What is wrong with the clipping of the run in `folder`, which `gradclip watch` or telemetry recorded.

    A run of telemetry has the numbers only, so of it only what the numbers tell is found. Raises `FileNotFoundError`
    where there is no run.

    >>> import tempfile
    >>> from gradclip.telemetry import Event, jsonl
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sink = jsonl(folder)
    ...     sink.begin({})
    ...     sink(Event(0, "", "cpu", float("nan"), float("nan"), 1.0, 1.0, False, nonfinite=3, offenders=("weight",)))
    ...     sink.close()
    ...     [finding.problem for finding in diagnose(folder)]
    ['non-finite']
    """
    return [found for each in findings_in(runs_in(folder), accepted_with(())) for found in each]


def runs_in(folder: str | os.PathLike[str]) -> list[Run]:
    """The run in `folder`, and those in it of further optimizers."""
    return [read_run(place) for place in folders_of(folder)]


def mistakes_in(runs: Sequence[Run], accept: Collection[str] = ()) -> list[list[Finding]]:
    """For each run what is wrong with the script that made it, so that its norms do not mean what they say."""
    every = findings_in(runs, accepted_with(accept))
    return [[found for found in each if is_mistake(found)] for each in every]


def is_mistake(finding: Finding) -> bool:
    """Whether it is one of the script, which nobody means."""
    return finding.problem != NONFINITE and not finding.accepted


def findings_in(runs: Sequence[Run], accepted: Collection[str]) -> list[list[Finding]]:
    """For each run, of one optimizer, what is wrong with its clipping; `accepted` names what is meant as it is."""
    records, found = [recorded_run(run) for run in runs], []
    for record in records:
        beside = [other for other in records if root_of(other) == root_of(record)]
        across = findings_across_optimizers(record, beside)
        unused = finding_of_unused_thresholds(record, beside)
        every = [*findings_in_calls(record, beside), *findings_in_numbers(record), *unused, *across]
        found.append([replace(one, accepted=is_accepted(one.problem, one.where, accepted)) for one in every])
    return found


def root_of(record: RecordedRun) -> Path:
    """The folder of the whole script."""
    folder = record.run.path
    return folder.parent if (folder.parent / EVENTS).is_file() else folder


def recorded_run(run: Run) -> RecordedRun:
    """The run of one optimizer; lines of its calls that are damaged are left out with a warning."""
    file = run.path / CALLS
    lines: list[dict[str, Any]] = []

    def take(line: Any) -> None:
        if not fits(line, LINE) or not all(fits(line[name], [str]) for name in CLIPS & line.keys()):
            raise ValueError("a line of calls is of a wrong kind")
        if unknown := [flaw for flaw in line["flaws"] if len(flaw) != len(Flaw._fields) or flaw[0] not in PROBLEMS]:
            raise ValueError(f"there is no problem {shown(unknown[0])}")
        lines.append(line)

    if file.is_file() and (damage := read_lines(file, take)).lines:
        warn_of(damage)
    ends = [*(line["step"] for line in lines[1:]), run[-1].step + 1 if run else 0][: len(lines)]
    return RecordedRun(run, [(line, end - line["step"]) for line, end in zip(lines, ends, strict=True)])


def findings_in_calls(record: RecordedRun, beside: Sequence[RecordedRun] = ()) -> Iterator[Finding]:
    """What the calls of a script show, each problem and line once; what happens in few steps has a reason there.

    A call on the parameters of one optimizer where those of another have gradients is wrong if nothing clips these.
    """
    left_out = [
        other.run.optimizer
        for other in beside
        if other.is_silent and not other.is_one_number and train_together(record.run, other.run)
    ]
    lines_by_flaw: dict[tuple[str, str, str], list[tuple[dict[str, Any], int]]] = {}
    for line, steps in record.calls:
        for flaw in line["flaws"]:
            lines_by_flaw.setdefault(tuple(flaw), []).append((line, steps))
    for (name, where, by), lines in lines_by_flaw.items():
        if (name == OTHER_MODEL and not left_out) or (name == UNTRAINED and record.is_one_number):
            continue
        names = {"by": by, "this": record.run.optimizer, "other": " and of ".join(left_out)}
        missing, steps = some_of(lines[0][0]["missing"]), sum(steps for _, steps in lines)
        if name == OVERFLOW or steps >= RARE * len(record.run):
            yield finding(name, where, lines[0][0]["step"], steps, len(record.run), missing=missing, **names)


def findings_in_numbers(record: RecordedRun) -> Iterator[Finding]:
    """What the numbers of a run show: steps on what is not finite."""
    taken = [event for event in record.run if not event.skipped]
    place = line_in(record.calls[-1][0]["calls"][-1]) if record.calls and record.calls[-1][0]["calls"] else ""
    if bad := [event for event in taken if event.nonfinite]:
        offenders = some_of([name for event in bad for name in event.offenders])
        yield finding(NONFINITE, place, bad[0].step, len(bad), len(record.run), offenders=offenders)


def finding_of_unused_thresholds(record: RecordedRun, every: list[RecordedRun]) -> Iterator[Finding]:
    """A threshold that the script has and nothing applies, to any optimizer, though an element exceeded it."""
    if any(line["calls"] or line["flaws"] for other in every for line, _ in other.calls):
        return
    for threshold in record.script.get("thresholds", ()):
        above = [
            (line["step"], steps) for line, steps in record.calls if threshold["name"] in line.get("unclipped", ())
        ]
        if above:
            steps = sum(steps for _, steps in above)
            yield finding(
                NEVER,
                threshold["where"],
                above[0][0],
                steps,
                len(record.run),
                option=threshold["name"],
                value=threshold["value"],
            )


def findings_across_optimizers(record: RecordedRun, every: list[RecordedRun]) -> Iterator[Finding]:
    """An optimizer that nothing clips beside one that something does, and whose norms exceed the threshold there."""
    clipped = [other for other in every if other.clips]
    place = next((call for other in clipped for line, _ in other.calls for call in line["calls"]), "")
    beside = [other for other in clipped if train_together(record.run, other.run)]
    limit = min((event.threshold for other in beside for event in other.run), default=math.inf)
    above = [event for event in record.run if event.norm_before > ABOVE * limit]
    named = any(flaw[0] == OTHER_MODEL for other in beside for line, _ in other.calls for flaw in line["flaws"])
    shapes = record.run.about.get("parameters", {})
    if above and record.is_silent and not named and shapes and not record.is_one_number:
        facts = {
            "optimizer": f"the {record.run.optimizer} that holds {some_of(list(shapes))}",
            "optimizers": len(every),
            "largest": max(event.norm_before for event in above),
        }
        yield finding(OTHER_OPTIMIZER, line_in(place), above[0].step, len(above), len(record.run), **facts)


def train_together(run: Run, other: Run) -> bool:
    """Whether two optimizers train at the same time: for half of the other's, and not in far fewer steps."""
    if not run or not other:
        return False
    together = min(run[-1].time, other[-1].time) - max(run[0].time, other[0].time)
    return together >= (other[-1].time - other[0].time) / 2 and MOST_APART * len(run) >= len(other)


def line_in(call: str) -> str:
    """The line of a call, from its sentence; nothing for the rule of an optimizer, which is called nowhere."""
    _, found, place = call.rpartition(" at ")
    return place.partition(" by ")[0] if found else ""


def finding(name: str, where: str, since: int, steps: int, of: int, **facts: Any) -> Finding:
    """The finding of a problem, with the facts in its words."""
    problem = PROBLEMS[name]
    return Finding(name, problem.wrong.format(**facts), problem.cure.format(**facts), where, since, steps, of)


def some_of(names: list[str]) -> str:
    """Some names, and how many more there are."""
    known = list(dict.fromkeys(names))
    more = len(known) - MOST_NAMED
    return ", ".join(known[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
