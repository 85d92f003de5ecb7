"""Runs a task for a person or for a machine: `gradclip compare`."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, TextColumn

from gradclip.experiments.compare import ComparisonStopped
from gradclip.experiments.comparison import Comparison
from gradclip.experiments.kept_runs import KeptRuns
from gradclip.experiments.outcome import Trained
from gradclip.experiments.showing.comparison_picture import save_picture
from gradclip.experiments.showing.comparison_table import diverged_runs, figure, tables
from gradclip.experiments.showing.progress import ProgressDisplay, print_plain
from gradclip.experiments.tasks.task import Task, task_called
from gradclip.rules.text import rule_from_text
from gradclip.verdict.formatting import count, time_left

PROCESSES = 2


def show_comparison(
    name: str,
    rules: Sequence[str] | None,
    seeds: int,
    folder: Path | None,
    *,
    as_json: bool,
    kept: KeptRuns | None = None,
) -> int:
    """Train the task under the rules, or its own if there are none; then say what came of it.

    Of a comparison that is interrupted what there is of it is said, and written into the folder. Each run goes to
    `kept` when it has ended; what that has is not trained again.
    """
    task, processes = task_called(name), min(PROCESSES, os.cpu_count() or 1)
    rules = rules or task.rules
    known = [text for text, seed in kept.read() if text in rules and seed < seeds] if kept else []
    if not as_json:
        print_plain(Console(), f"{task.title}\n{task.about}\n")
    try:
        with ComparisonProgress(Console(stderr=True), rules, seeds, known) as progress:
            comparison = task.compare(rules, seeds, processes, progress.ended, kept.path if kept else None)
    except ComparisonStopped as stopped:
        tell(task, stopped.found, folder, as_json=as_json, interrupted=True)
        raise
    tell(task, comparison, folder, as_json=as_json)
    if kept:
        kept.remove_if_all_in(comparison)
    return 0


def kept_in(folder: Path, name: str, rules: Sequence[str] | None, *, resume: bool) -> KeptRuns:
    """Where the runs of a task are kept in a folder, with those that it goes on from.

    `ValueError` where they are of something else, or where there are some and nobody said that they are gone on from.
    """
    task = task_called(name)
    named = {text: repr(rule_from_text(text)) for text in rules or task.rules}
    kept, document = KeptRuns(folder / f"{name}.runs.jsonl", task.title, task.metric), folder / f"{name}.json"
    if resume:
        kept.add_those_in(document, named)
    elif earlier := next((path for path in (kept.path, document) if path.exists()), None):
        raise ValueError(
            f"{earlier} has runs of an earlier comparison: go on from them with --resume, or remove the file"
        )
    kept.under(named)
    return kept


def tell(task: Task, comparison: Comparison, folder: Path | None, *, as_json: bool, interrupted: bool = False) -> None:
    """Print the comparison, and write it into the folder if there is one."""
    console, found = Console(), document(task, comparison, interrupted)
    if as_json:
        print(json.dumps(found, allow_nan=False), flush=True)
    else:
        if interrupted:
            print_plain(console, f"interrupted after {count(len(comparison.seeds), 'seed')}, which have shown:")
        print_comparison(task, comparison, console)
    for path in saved(found, comparison, folder) if folder else ():
        if not as_json:
            print_plain(console, f"written: {path}", soft_wrap=True)


class ComparisonProgress(ProgressDisplay):
    """Advances the bar of a rule when one of its runs ends; without a terminal, a line for each run instead.

    `known` has the rule of each run that has ended before.
    """

    def __init__(self, console: Console, rules: Iterable[str], seeds: int, known: Sequence[str] = ()) -> None:
        names, metric = (TextColumn(f"{{task.{name}}}", markup=False) for name in ("description", "fields[metric]"))
        super().__init__(console, names, BarColumn(), TextColumn("{task.completed}/{task.total}"), metric)
        self._tasks = {rule: self.progress.add_task(rule, total=seeds, metric="", start=False) for rule in rules}
        self._all = self.progress.add_task("all", total=seeds * len(self._tasks), metric="")
        self._known = len(known)
        for rule in known:
            self.progress.update(self._tasks[rule], advance=1)
            self.progress.update(self._all, advance=1)
        if known:
            total = int(self.progress.tasks[self._all].total or 0)
            self.print(f"  trained before: {len(known)} of {count(total, 'run')}")
        self._began = time.monotonic()

    def ended(self, rule: str, trained: Trained) -> None:
        """A run has ended."""
        metric = trained.diverged or figure(trained.outcome.metric)
        self.progress.start_task(self._tasks[rule])
        self.progress.update(self._tasks[rule], advance=1, metric=metric)
        self.progress.update(self._all, advance=1)
        left = self.left()
        self.progress.update(self._all, metric=left)
        if not self.has_bars:
            end = f" | {left}" if left else ""
            self.print(f"  {rule} | seed {trained.seed} | {metric} | {trained.seconds:.1f} s{end}")

    def left(self) -> str:
        """How long the runs take that are to come, by those that have ended."""
        task = self.progress.tasks[self._all]
        ended, total = int(task.completed), int(task.total or 0)
        left = time_left(time.monotonic() - self._began, ended - self._known, total - ended)
        return f"about {left} left" if left else ""


def print_comparison(task: Task, comparison: Comparison, console: Console) -> None:
    """The tables, the runs that diverged, and what became of the claims."""
    claims = [claim for claim in task.claims if claim.is_about(comparison)]
    for found in tables(comparison):
        console.print(found)
    for line in (
        *(f"diverged, {runs}" for runs in diverged_runs(comparison)),
        *(f"\n{claim.words}\n({claim.source})\n{claim.result(comparison)}" for claim in claims),
    ):
        print_plain(console, line)


def document(task: Task, comparison: Comparison, interrupted: bool) -> dict[str, object]:
    """The comparison as one document, with the name of the task, and whether seeds are missing."""
    return {"task": task.name, "interrupted": interrupted, **comparison.to_json()}


def saved(document: dict[str, object], comparison: Comparison, folder: Path) -> tuple[Path, Path]:
    """The document and the picture, written into the folder."""
    path = folder / f"{document['task']}.json"
    new = path.with_suffix(".json.new")
    new.write_text(lines_of(document), encoding="utf-8")
    os.replace(new, path)  # so that there is a whole one at any time
    return path, save_picture(comparison, path.with_suffix(".png"))


def lines_of(document: dict[str, object]) -> str:
    """A document with a line for each run, so that versions of it can be compared."""
    text = json.dumps(document, allow_nan=False)
    return text.replace('{"text"', '\n{"text"').replace('{"seed"', '\n  {"seed"') + "\n"
