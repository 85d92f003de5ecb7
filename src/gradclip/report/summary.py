"""Everything that a report says of a run, from the events alone; pages, notebooks and terminals only show it."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from gradclip.doctor.diagnosis import mistakes_in
from gradclip.errors import shown
from gradclip.report.layers import Heat, heat_of
from gradclip.report.what_if import WhatIf, what_if
from gradclip.report.worst import WorstParameter, WorstStep, worst_parameters, worst_steps
from gradclip.telemetry.runs import Run
from gradclip.verdict.divergence import diverged
from gradclip.verdict.judge import Verdict, verdict_of
from gradclip.verdict.numbers import Numbers, numbers_of, usual_norms

HOW_TO_TENSORS = "The norm of each tensor is not in this run. Telemetry(..., tensors=True) records it at no cost."


@dataclass(frozen=True)
class Summary:
    """What is said of one run. `name` tells it from the others of the report, `usual` are the norms usual around it.

    >>> from gradclip.telemetry import Event
    >>> (summary,) = summarise([Run([Event(0, "", "cpu", 5.0, 1.0, 1.0, 0.2, True)])])
    >>> summary.verdict.kind, summary.numbers.clipped
    ('few', 1)
    """

    name: str
    rule: str
    run: Run
    usual: list[float]
    numbers: Numbers
    verdict: Verdict
    worst_steps: list[WorstStep]
    worst_parameters: list[WorstParameter]
    heat: Heat | None
    what_if: WhatIf | None

    def to_dict(self) -> dict[str, Any]:
        """The summary as plain data for JSON, where numbers that are not finite are None; without the events."""
        data = {
            "run": str(self.run.path),
            "rule": self.rule,
            "verdict": asdict(self.verdict),
            **asdict(self.numbers),
            "clip_rate": self.numbers.clip_rate,
            "worst_steps": [asdict(row) for row in self.worst_steps],
            "worst_parameters": [asdict(row) for row in self.worst_parameters],
            "what_if": [asdict(row) for row in self.what_if.rows] if self.what_if else [],
        }
        found: dict[str, Any] = without_nan(data)
        return found


def summarise(runs: Sequence[Run], accept: Collection[str] = ()) -> list[Summary]:
    """The summary of each run, in the order given; `ValueError` for none, `TypeError` for what is no run.

    `accept` names findings of the doctor that are meant as they are.

    >>> from gradclip.telemetry import Event
    >>> runs = [Run(Event(step, "", "cpu", 5.0, 5.0, 9.0, 1.0, False) for step in range(50))]
    >>> summarise(runs)[0].verdict.kind
    'never'
    """
    if not isinstance(runs, Sequence) or isinstance(runs, Run) or not all(isinstance(run, Run) for run in runs):
        raise TypeError(f"a report is about a list of runs, got {shown(runs)}: write [read_run(path)]")
    if not runs:
        raise ValueError("a report is about one run or more, got none")
    mistakes = map(len, mistakes_in(runs, accept))
    return [summary_of(*facts) for facts in zip(runs, names_of(runs), mistakes, strict=True)]


def summary_of(run: Run, name: str, mistakes: int = 0) -> Summary:
    """The summary of one run that is called `name`, in whose script so many mistakes were found."""
    usual = usual_norms([event.norm_before for event in run])
    numbers = numbers_of(run, usual)
    return Summary(
        name=name,
        rule=rule_of(run) if not mistakes else "what clips it, and where that is wrong: gradclip doctor",
        run=run,
        usual=usual,
        numbers=numbers,
        verdict=verdict_of(numbers, diverged(run), mistakes),
        worst_steps=worst_steps(run, usual),
        worst_parameters=worst_parameters(run),
        heat=heat_of(run),
        what_if=what_if(run),
    )


def rule_of(run: Run) -> str:
    return run[-1].rule if run else str(run.about.get("sentence", ""))


def names_of(runs: Sequence[Run]) -> list[str]:
    """The name of each run's folder, or its whole path where two folders have the same name."""
    short = [run.path.resolve().name or "run" for run in runs]
    return [str(run.path) if short.count(name) > 1 else name for run, name in zip(runs, short, strict=True)]


def without_nan(data: Any) -> Any:
    """The data with None for the numbers that JSON does not have."""
    if isinstance(data, dict):
        return {name: without_nan(value) for name, value in data.items()}
    if isinstance(data, list | tuple):
        return [without_nan(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data
