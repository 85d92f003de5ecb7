"""A comparison in a terminal while it runs: a progress bar for each rule."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from gradclip.experiments.comparison_table import figure
from gradclip.experiments.outcome import Trained


class Bars:
    """Advances the bar of a rule when one of its runs ends; without a terminal, a line for each run instead."""

    def __init__(self, console: Console, rules: Iterable[str], seeds: int) -> None:
        self._bars = sys.stdout.isatty() and sys.stderr.isatty() and not console.is_dumb_terminal
        names = TextColumn("{task.description}", markup=False)
        columns = (names, BarColumn(), TextColumn("{task.completed}/{task.total}"))
        last = (TextColumn("{task.fields[found]}", markup=False), TimeElapsedColumn())
        self._progress = Progress(*columns, *last, console=console, transient=True, disable=not self._bars)
        self._console = console
        self._tasks = {text: self._progress.add_task(text, total=seeds, found="", start=False) for text in rules}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._progress.stop()

    def ended(self, text: str, trained: Trained) -> None:
        """A run has ended."""
        found = trained.diverged or figure(trained.outcome.metric)
        self._progress.start_task(self._tasks[text])
        self._progress.update(self._tasks[text], advance=1, found=found)
        if not self._bars:
            line = f"  {text} | seed {trained.seed} | {found} | {trained.seconds:.1f} s"
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)
