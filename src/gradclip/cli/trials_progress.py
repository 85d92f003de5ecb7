"""How far the trainings of `gradclip suggest` are, on standard error: a bar in a terminal, and a line for each."""

from __future__ import annotations

import contextlib
import importlib.util
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from gradclip.telemetry.folder import EVENTS
from gradclip.verdict.formatting import time_left

if TYPE_CHECKING:
    from rich.progress import Progress

    from gradclip.advice.trainings import Training


class TrialsProgress:
    """Follows the trainings that are recorded in `folder`, at most `most` of them.

    While it is entered, a terminal shows a bar where rich is installed.
    """

    def __init__(self, folder: Path, most: int) -> None:
        self.folder, self.most = folder, most
        self.ended: list[Training] = []
        self._began = time.monotonic()
        self._bar: Progress | None = None

    def __enter__(self) -> TrialsProgress:
        if sys.stderr.isatty() and importlib.util.find_spec("rich") is not None:
            self._bar = bar_of(self.at_work)
            self._task = self._bar.add_task("", total=self.most)
            with deaf():
                self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def training(self, training: Training) -> None:
        """Say how a training ended, as soon as it has, and how long the others may take."""
        self.ended.append(training)
        line = f"{training_as_text(training)}{self.left()}"
        if self._bar is None:
            print(line, file=sys.stderr, flush=True)
        else:
            self._bar.console.print(line, highlight=False, markup=False, soft_wrap=True)
            self._bar.advance(self._task)

    def left(self) -> str:
        """How long the trainings take that may come, by those that have ended."""
        ended = len(self.ended)
        left = time_left(time.monotonic() - self._began, ended, self.most - ended)
        return f"  (at most {left} left)" if left else ""

    def at_work(self) -> str:
        """Which training is at work and how far it is, as the file of its events tells beside that of the first."""
        number = f"training {len(self.ended) + 1} of at most {self.most}"
        if not self.ended:
            return f"{number}, as it is"
        number += self.left()
        known, first = {training.path for training in self.ended}, size_of(self.ended[0].path)
        now = next((folder for folder in self.folder.glob("*/") if folder not in known), None)
        if now is None or not first:
            return number
        return f"{number}, under {now.name.replace('-', ':', 1)}: {min(size_of(now) / first, 1.0):.0%}"


def bar_of(words: Callable[[], str]) -> Progress:
    """A bar on standard error beside the words, which are asked for whenever it is drawn."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TimeElapsedColumn
    from rich.text import Text

    class WordsColumn(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(words())

    console = Console(stderr=True)
    return Progress(WordsColumn(), BarColumn(), TimeElapsedColumn(), console=console, transient=True)


@contextlib.contextmanager
def deaf() -> Iterator[None]:
    """Threads that are started meanwhile hear no signal: those are for the script that is trained."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def size_of(run: Path) -> int:
    """The bytes of the events of a run; 0 where there are none yet."""
    file = run / EVENTS
    return file.stat().st_size if file.is_file() else 0


def training_as_text(training: Training) -> str:
    """A line on how a training ended."""
    broke = f", exit code {training.exit}" if training.exit else ""
    seed = "" if training.seed is None else f", seed {training.seed}"
    judged = training.judged.value
    told = "" if judged == training.loss or not training.judged.ends else f"metric {judged:<12.5g}"
    return f"{training.rule or 'as it is':20}loss {training.loss:<12.5g}{told}{training.steps} steps{seed}{broke}"
