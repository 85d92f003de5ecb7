"""Runs a task for a person or for a machine: `gradclip compare`."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from gradclip.experiments.bars import Bars
from gradclip.experiments.comparison import Comparison
from gradclip.experiments.comparison_picture import save_picture
from gradclip.experiments.comparison_table import diverged_runs, table
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
        console.print(f"{task.title}\n{task.about}\n", highlight=False, markup=False)
        with Bars(console, rules, seeds) as bars:
            comparison = task.compare(rules, seeds, processes, bars.ended)
        print_comparison(task, comparison, console)
    for path in saved(task, comparison, folder) if folder else ():
        if not as_json:
            console.print(f"written: {path}", highlight=False, markup=False, soft_wrap=True)
    return 0


def print_comparison(task: Task, comparison: Comparison, console: Console) -> None:
    """The table, the runs that diverged, and what became of the claims."""
    claims = [claim for claim in task.claims if claim.is_about(comparison)]
    console.print(table(comparison))
    for line in (
        *(f"diverged, {runs}" for runs in diverged_runs(comparison)),
        *(f"\n{claim.words}\n({claim.source})\n{claim.result(comparison)}" for claim in claims),
    ):
        console.print(line, highlight=False, markup=False)


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
