"""Write the page of evidence at a real size from what `gradclip compare TASK --seeds 7 --out docs/evidence` left.

    python docs/make_evidence_at_size.py            write docs/evidence-at-size.md, and draw its pictures
    python docs/make_evidence_at_size.py --check    exit with 1 if it is out of date

A comparison that goes on for days is committed as it is: `TASK.runs.jsonl` has a line for each run that has ended, and
the page shows the seeds that every rule of the task has; when all have ended `TASK.json` takes its place. Of both the
one with more seeds is shown. Every word about a result is made from its numbers.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from gradclip.experiments.comparison import Comparison
from gradclip.experiments.holm import SURVIVES
from gradclip.experiments.kept_runs import KeptRuns
from gradclip.experiments.showing.comparison_picture import save_picture
from gradclip.experiments.showing.comparison_table import columns, differences, figure, margin_of, share_of
from gradclip.experiments.sign_test import chance
from gradclip.experiments.tasks.task import Task, task_called
from gradclip.experiments.tasks.titles import SIZED
from gradclip.verdict.formatting import count, duration
from made import options_of, table, write
from make_evidence import (
    adapts,
    against_the_first,
    beside_the_best,
    beyond_fixed,
    broken,
    carries,
    code,
    found_of,
    made_with,
    read,
    rows,
    sentence,
)
from trained import wrapped

DOCS = Path(__file__).resolve().parent
FOLDER, PAGE = DOCS / "evidence", DOCS / "evidence-at-size.md"
FEWEST = 7
"""So many seeds a result needs at least to stand at the top."""
INTRODUCTION = (
    "Trainings of a size at which clipping is used, minutes to hours a run; [the others](evidence.md) are small. The "
    "same first weights and batches for every rule on a seed. Which difference would matter, and how many seeds there "
    "would be, was [written down before](decisions/0053-what-a-comparison-shows.md).",
    "**Difference** is the metric of a rule less that of the first one, seed by seed: the median, with the interval "
    "that holds the median of all seeds that there are at the confidence in its heading, whatever the distribution. "
    "**Chance** is that of the sign test, two-sided; **corrected** is the same by Holm's correction for all rules of "
    'the table, and "also corrected" says that it is 5 % at most. **Within** says whether a rule is shown to be equal, '
    "which is to differ by less than the margin (two one-sided tests at 5 %). What is "
    '"within noise" is neither shown to differ nor to be equal.',
)


@dataclass(frozen=True)
class Sized:
    """A task with what has been trained of it, and whether the margin of the task was in the file when that began."""

    task: Task
    comparison: Comparison
    margin_was_there: bool

    @property
    def picture(self) -> Path:
        return FOLDER / f"{self.task.name}.png"


def found() -> dict[str, Sized | None]:
    """The tasks by their names, None where no seed has been trained on under every rule."""
    return {name: one_of(name) for name in SIZED}


def one_of(name: str) -> Sized | None:
    """What there is of one task, whose module is imported only where there is something."""
    document, runs = FOLDER / f"{name}.json", FOLDER / f"{name}.runs.jsonl"
    if not document.exists() and not runs.exists():
        return None
    task = task_called(name)
    ended = read(document) if document.exists() else None
    there = [one for one in (ended, KeptRuns(runs, task.title, task.metric).so_far(task.rules)) if one]
    if not there:
        return None
    most = max(there, key=lambda one: len(one.seeds))
    stated, metric = most.metric.margin, task.metric
    own = replace(most.metric, margin=metric.margin, relative=metric.relative) if stated is None else most.metric
    return Sized(task, replace(most, metric=own), stated == own.margin)


def page(results: Mapping[str, Sized | None]) -> str:
    """The whole page."""
    sized = [one for one in results.values() if one is not None]
    parts = ["# Evidence at a real size", *map(wrapped, INTRODUCTION), *summary(sized)]
    missing = [f"`{name}` ({SIZED[name].title})" for name, one in results.items() if one is None]
    if missing or not results:
        parts.append(wrapped(f"Not trained yet: {', '.join(missing) or 'any of them'}."))
    for one in sized:
        parts += section(one)
    return "\n\n".join(parts) + "\n"


def summary(sized: list[Sized]) -> list[str]:
    """A row for each task, with a finding where there are seeds enough."""
    if not sized:
        return []
    lines = [("task", "seeds", "best median", "against the first rule")]
    for one in sized:
        best, seeds, needed = one.comparison.best.text, len(one.comparison.seeds), for_a_headline(one.comparison)
        said = found_of(one.comparison) if seeds >= needed else f"fewer than {needed} seeds, no headline"
        median = f"`{best}`, {figure(one.comparison.median(best))}"
        lines.append((f"[{one.task.name}](#{one.task.name})", str(seeds), median, said))
    return ["## In short", table(lines)]


def section(sized: Sized) -> list[str]:
    """What is said of one task."""
    task, comparison = sized.task, sized.comparison
    metric, first = comparison.metric, code([comparison.baseline.text])
    fixed = any(not adapts(one.text) and not carries(one.text) for one in comparison.contenders[1:])
    said = [
        so_far(comparison),
        against_the_first(comparison),
        beside_the_best(comparison),
        beyond_fixed(comparison) if fixed else "",
        broken(comparison),
    ]
    margin = f"; a difference of less than {margin_of(metric)} does not matter" if metric.margin else ""
    if not sized.margin_was_there:
        margin += ", which was not yet in the file when the first run began"
    return [
        f"## {task.name}",
        wrapped(f"{sentence(task.title)}. {task.about}"),
        f"{sentence(metric.name)}; {metric.best} is best.",
        rows(with_durations(comparison)),
        wrapped(f"Difference from {first}, seed by seed{share_of(metric)}{margin}."),
        rows(differences(comparison)),
        wrapped(" ".join(words for words in said if words)),
        f"![{sentence(task.title)}](evidence/{task.name}.png)",
        wrapped(made_with(comparison)),
    ]


def with_durations(comparison: Comparison) -> dict[str, list[str]]:
    """The columns of a comparison, with what a run takes in words."""
    lasted = [duration(contender.seconds) for contender in comparison.contenders]
    return {
        "a run" if heading == "s" else heading: lasted if heading == "s" else cells
        for heading, cells in columns(comparison).items()
    }


def so_far(comparison: Comparison) -> str:
    """That seeds are missing, where some are."""
    seeds, needed = len(comparison.seeds), for_a_headline(comparison)
    return "" if seeds >= needed else f"**{count(seeds, 'seed')} so far, fewer than the {needed} of a headline.**"


def for_a_headline(comparison: Comparison) -> int:
    """So many seeds a result needs to stand at the top: a rule that wins on all of them differs at 5 % when the chance
    is corrected for the number of rules; and at least seven."""
    others = len(comparison.contenders) - 1
    return next(seeds for seeds in itertools.count(FEWEST) if others * chance(seeds, seeds) <= SURVIVES)


def main(arguments: list[str] | None = None) -> int:
    """Write the page and draw its pictures, or check it."""
    check = options_of(__doc__).parse_args(arguments).check
    results = found()
    if not check:
        for one in results.values():
            if one is not None:
                save_picture(one.comparison, one.picture)
    return write(PAGE, page(results), check)


if __name__ == "__main__":
    sys.exit(main())
