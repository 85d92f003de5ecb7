"""Runs a task for a person or for a machine: `gradclip compare`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, TextColumn

from gradclip.experiments.comparison import Comparison
from gradclip.experiments.outcome import Trained
from gradclip.experiments.showing.comparison_picture import save_picture
from gradclip.experiments.showing.comparison_table import diverged_runs, figure, table
from gradclip.experiments.showing.progress import ProgressDisplay, print_plain
from gradclip.experiments.tasks.task import Task, task_called

PROCESSES = 2


def show_comparison(name: str, rules: Sequence[str] | None, seeds: int, folder: Path | None, *, as_json: bool) -> int:
    """Train the task under the rules, or its own if there are none; then say what came of it."""
    task, processes = task_called(name), min(PROCESSES, os.cpu_count() or 1)
    rules = rules or task.rules
    if as_json:
        comparison = task.compare(rules, seeds, processes)
        print(json.dumps(document(task, comparison), allow_nan=False))
    else:
        console = Console()
        print_plain(console, f"{task.title}\n{task.about}\n")
        with ComparisonProgress(console, rules, seeds) as progress:
            comparison = task.compare(rules, seeds, processes, progress.ended)
        print_comparison(task, comparison, console)
    for path in saved(task, comparison, folder) if folder else ():
        if not as_json:
            print_plain(console, f"written: {path}", soft_wrap=True)
    return 0


class ComparisonProgress(ProgressDisplay):
    """Advances the bar of a rule when one of its runs ends; without a terminal, a line for each run instead."""

    def __init__(self, console: Console, rules: Iterable[str], seeds: int) -> None:
        names, metric = (TextColumn(f"{{task.{name}}}", markup=False) for name in ("description", "fields[metric]"))
        super().__init__(console, names, BarColumn(), TextColumn("{task.completed}/{task.total}"), metric)
        self._tasks = {rule: self.progress.add_task(rule, total=seeds, metric="", start=False) for rule in rules}

    def ended(self, rule: str, trained: Trained) -> None:
        """A run has ended."""
        metric = trained.diverged or figure(trained.outcome.metric)
        self.progress.start_task(self._tasks[rule])
        self.progress.update(self._tasks[rule], advance=1, metric=metric)
        if not self.has_bars:
            self.print(f"  {rule} | seed {trained.seed} | {metric} | {trained.seconds:.1f} s")


def print_comparison(task: Task, comparison: Comparison, console: Console) -> None:
    """The table, the runs that diverged, and what became of the claims."""
    claims = [claim for claim in task.claims if claim.is_about(comparison)]
    console.print(table(comparison))
    for line in (
        *(f"diverged, {runs}" for runs in diverged_runs(comparison)),
        *(f"\n{claim.words}\n({claim.source})\n{claim.result(comparison)}" for claim in claims),
    ):
        print_plain(console, line)


def document(task: Task, comparison: Comparison) -> dict[str, object]:
    """The comparison as one document, with the name of the task."""
    return {"task": task.name, **comparison.to_json()}


def saved(task: Task, comparison: Comparison, folder: Path) -> tuple[Path, Path]:
    """The document and the picture, written into the folder."""
    path = folder / f"{task.name}.json"
    path.write_text(lines_of(document(task, comparison)), encoding="utf-8")
    return path, save_picture(comparison, folder / f"{task.name}.png")


def lines_of(document: dict[str, object]) -> str:
    """A document with a line for each run, so that versions of it can be compared."""
    text = json.dumps(document, allow_nan=False)
    return text.replace('{"text"', '\n{"text"').replace('{"seed"', '\n  {"seed"') + "\n"
