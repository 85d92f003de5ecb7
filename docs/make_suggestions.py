"""Write the page on what `gradclip suggest` proposes, from docs/evidence/suggest.json.

    python docs/make_suggestions.py            write docs/suggestions.md
    python docs/make_suggestions.py --check    exit with 1 if it is out of date
    python docs/make_suggestions.py --run      record and train what the document has not yet, then write the page

Every word about a result is made from its numbers.
"""

from __future__ import annotations

import functools
import json
import math
import statistics
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from gradclip import Rule
from gradclip.advice.search import best_of, rule_of, search, start_from
from gradclip.advice.suggestion import suggest
from gradclip.experiments.sign_test import BETTER, WORSE, paired_verdict
from gradclip.experiments.tasks.task import task_called
from gradclip.experiments.versions import versions
from gradclip.rules.text import rule_from_text
from gradclip.rules.threshold import Observed, State, Threshold
from gradclip.telemetry import Event
from made import table
from trained import make, wrapped

DOCS = Path(__file__).resolve().parent
DATA, PAGE = DOCS / "evidence" / "suggest.json", DOCS / "suggestions.md"
SEEDS, OTHER = (0, 1, 2, 3, 4), 5
"""The seeds that rules are compared on; what is trained on one is suggested by a run on the seed `OTHER` later."""
STARTS = {"none": math.inf, "global:1": 1.0}
"""How a run is recorded: without clipping, and under the default of many trainers."""
GRID = ("none", *(f"global:{limit}" for limit in ("0.01", "0.03", "0.1", "0.3", "1", "3", "10", "30", "100")))
COLUMNS = (
    *("task", "recorded under", "", "suggestions", "median", "best of the grid", "median"),
    *("than the best", "than before"),
)
LIVING = {"digits": {"rates": (0.2,)}, "l0l1": {"step_sizes": (0.003,)}}
"""For a task over learning rates the one that is recorded: the largest of it that lives without clipping."""
HOW = {
    "suggestions": "`gradclip suggest RUN`, from the norms of a run",
    "trials": "`gradclip suggest train.py`, by trial",
}
"""What the suggestions come from, by the name that it has in the document."""
INTRODUCTION = (
    "On every task of `gradclip compare` that has a published claim, trainings on the seeds 5 to 9 give suggestions, "
    "and each is trained on a seed from 0 to 4, beside thresholds of a grid (none, 0.01, 0.03, 0.1 ... 100). The task "
    "is trained first without clipping and under `ClipGradByGlobalNorm(1.0)`, which many trainers have as their "
    "default, and what is said of this run is a suggestion from its norms. By trial, training is repeated under other "
    "thresholds, beginning from that, and the best on this seed is the suggestion. Where a run is best left as it is, "
    "or nothing is proposed, the rule that it was trained under is what is compared.",
    "The best of the grid is that with the best median on the seeds 0 to 4, chosen after the fact as by a search of "
    'ten trainings a seed. "worse" says that it was so on all five seeds (sign test), however little, and "within '
    'noise" that it was not, were it on four: the medians say how much. The last column is against the rule that the '
    "runs were trained under.",
    "On `digits` and `l0l1`, which train at many learning rates, a run is recorded at the largest rate of all that "
    "lives without clipping on every function, and the suggestion is used at all rates.",
)


@dataclass(frozen=True)
class Recorder(Threshold):
    """A fixed threshold that writes down the norms that it is shown, those of each training in a list of its own."""

    limit: float
    runs: list[list[float]] = field(default_factory=list, compare=False)

    adapts: ClassVar[bool] = True

    def at(self, observed: Observed, state: State) -> tuple[Any, State]:
        if observed.step == 0:
            self.runs.append([])
        self.runs[-1].append(float(observed.norm))
        return self.limit, state

    def __str__(self) -> str:
        return f"{self.limit:g}"


def first_run(name: str, limit: float, seed: int) -> list[Event]:
    """The events of the first training of a task under this threshold."""
    recorder = Recorder(limit)
    rule = Rule(threshold=recorder)
    task_called(name).train(rule, seed, **LIVING.get(name, {}))
    return [
        Event(
            step,
            repr(rule),
            "cpu",
            norm,
            min(norm, limit),
            limit,
            min(1.0, limit / norm) if norm else 1.0,
            norm > limit,
        )
        for step, norm in enumerate(recorder.runs[0])
    ]


def trained(start: str, found: Mapping[str, Any]) -> str:
    """The rule that a suggestion is trained with."""
    return start if found["leave"] or found["rule"] is None else str(found["rule"])


def run(data: dict[str, Any], names: Sequence[str]) -> None:
    """Record and train what `data` has not yet, and keep it after every task."""
    for name in names:
        own = data["tasks"].setdefault(name, {})
        own = {kind: own.setdefault(kind, {}) for kind in ("grid", "suggestions", "trials")}
        for text in GRID:
            runs = own["grid"].setdefault(text, [])
            runs += [metric_of(name, text, seed) for seed in SEEDS[len(runs) :]]
        for start, limit in STARTS.items():
            found = own["suggestions"].setdefault(start, [])
            for seed in SEEDS[len(found) :]:
                suggestion = suggest(first_run(name, limit, seed + OTHER)).to_dict()
                rule = trained(start, suggestion)
                metric = own["grid"][rule][seed] if rule in GRID else metric_of(name, rule, seed)
                found.append({"kind": suggestion["kind"], "rule": rule, "left": rule == start, "metric": metric})
            tried = own["trials"].setdefault(start, [])
            for seed in SEEDS[len(tried) :]:
                rule, trainings = searched(name, start, limit, seed + OTHER)
                metric = own["grid"][rule][seed] if rule in GRID else metric_of(name, rule, seed)
                tried.append({"rule": rule, "left": rule == start, "trainings": trainings, "metric": metric})
        document = {**data, "versions": versions()}
        DATA.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def searched(name: str, start: str, limit: float, seed: int) -> tuple[str, int]:
    """The rule that a search by trial finds on a seed, beginning from a run under `limit`; and how often it trained."""
    cost = task_called(name).metric.cost

    def train(text: str) -> float:
        return cost(finite(metric_of(name, text, seed)))

    begin = start_from(first_run(name, limit, seed))
    trials = search(lambda threshold: train(rule_of(threshold)), begin)
    best, as_it_is = best_of(trials), train(start)
    return (rule_of(best.threshold) if best.loss < as_it_is else start), len(trials) + 1


@functools.cache
def metric_of(name: str, text: str, seed: int) -> float | None:
    """What training a task with a rule ends at, None where that is not finite."""
    metric = task_called(name).train(rule_from_text(text), seed).metric
    return metric if math.isfinite(metric) else None


def stored() -> dict[str, Any]:
    """What was found so far."""
    return dict(json.loads(DATA.read_text(encoding="utf-8"))) if DATA.exists() else {"tasks": {}}


@dataclass(frozen=True)
class ComparisonRow:
    """The suggestions from one kind of run beside the best of the grid; the metrics [seeds] of both."""

    task: str
    start: str
    suggestions: tuple[Mapping[str, Any], ...]
    ours: tuple[float, ...]
    best: str
    theirs: tuple[float, ...]
    verdict: str
    own: str
    """What the sign test says against the best of the grid, and against the rule that the runs were recorded under."""


def rows(data: Mapping[str, Any], how: str) -> Iterator[ComparisonRow]:
    """All suggestions of a document that were made in this way."""
    for name, own in data["tasks"].items():
        cost = task_called(name).metric.cost
        grid = {text: [finite(one) for one in runs] for text, runs in own["grid"].items()}
        best = min(GRID, key=lambda text: statistics.median(map(cost, grid[text])))
        for start, found in own.get(how, {}).items():
            ours = [finite(one["metric"]) for one in found]
            verdicts = [said(list(map(cost, ours)), list(map(cost, grid[text]))) for text in (best, start)]
            yield ComparisonRow(name, start, tuple(found), tuple(ours), best, tuple(grid[best]), *verdicts)


def said(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """The verdict of the sign test; runs that are all equal need none."""
    return "the same" if ours == theirs else paired_verdict(ours, theirs)


def finite(metric: float | None) -> float:
    return math.inf if metric is None else metric


def page(data: Mapping[str, Any]) -> str:
    """The whole page."""
    versions = ", ".join(f"{name} {version}" for name, version in data["versions"].items())
    parts = [
        "# What `gradclip suggest` proposes, put to the test",
        *map(wrapped, INTRODUCTION),
        *(part for how in HOW for part in section(how, list(rows(data, how)))),
        wrapped(
            "Why the thresholds are chosen as they are, and what norms alone cannot know, is in "
            "[decision 0025](decisions/0025-what-suggest-proposes.md); how the search goes, in "
            "[decision 0029](decisions/0029-a-threshold-by-trial.md)."
        ),
        wrapped(f"Seeds {', '.join(map(str, SEEDS))}; {versions}."),
    ]
    return "\n\n".join(parts) + "\n"


def section(how: str, found: Sequence[ComparisonRow]) -> tuple[str, str, str]:
    """Title, table and summary of the suggestions that were made in one way."""
    good = sum(row.verdict != WORSE for row in found)
    return (
        f"## {HOW[how]}: no worse than the best of the grid in {good} of {len(found)}",
        table([COLUMNS, *map(line, found)]),
        wrapped(summary(found)),
    )


def line(row: ComparisonRow) -> tuple[str, ...]:
    """A row of the table."""
    ours, theirs = (f"{statistics.median(figures):.4g}" for figures in (row.ours, row.theirs))
    rules = Counter(f"`{one['rule']}`" + " (left)" * one["left"] for one in row.suggestions)
    return (
        *(row.task, f"`{row.start}`", made_of(row), counted(rules)),
        *(ours, f"`{row.best}`", theirs, row.verdict, row.own),
    )


def made_of(row: ComparisonRow) -> str:
    """What the suggestions were made of: norms of some shape, or a number of trainings."""
    if "kind" in row.suggestions[0]:
        return counted(Counter(one["kind"] for one in row.suggestions))
    counts = sorted({one["trainings"] for one in row.suggestions})
    return f"{' to '.join(map(str, dict.fromkeys((counts[0], counts[-1]))))} trainings"


def counted(found: Counter[str]) -> str:
    """What there is of each, the most frequent first."""
    often = 1 if max(found.values()) == 1 else 0
    return ", ".join(
        what if found[what] in (often, found.total()) else f"{count} {what}" for what, count in found.most_common()
    )


def summary(found: Sequence[ComparisonRow]) -> str:
    """How the suggestions fared, in sentences."""
    said = []
    for start in STARTS:
        own = [row for row in found if row.start == start]
        groups = {
            "no worse than the best of the grid": [row.task for row in own if row.verdict != WORSE],
            "better than it": [row.task for row in own if row.verdict == BETTER],
            "worse": [row.task for row in own if row.verdict == WORSE],
            "better than what the runs were trained under": [row.task for row in own if row.own == BETTER],
            "worse than that": [row.task for row in own if row.own == WORSE],
        }
        told = "; ".join(f"{what} on {', '.join(names)}" for what, names in groups.items() if names)
        said.append(f"From runs under `{start}` suggestions are {told}.")
    return " ".join(said)


def main(arguments: list[str] | None = None) -> int:
    """Write the page, or check it."""
    return make(PAGE, lambda: page(stored()), lambda names: run(stored(), names), __doc__, arguments)


if __name__ == "__main__":
    sys.exit(main())
