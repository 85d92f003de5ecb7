"""The demo in a terminal: log lines as training goes, below them a progress bar for each experiment."""

from __future__ import annotations

import math
import sys
from types import TracebackType
from typing import NamedTuple, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from gradclip.experiments import char_rnn, seed
from gradclip.experiments.run import Run, Step
from gradclip.experiments.training import Watch


class Plan(NamedTuple):
    """What is known of an experiment before it runs."""

    heading: str
    result: str
    logged: frozenset[int]
    runs: int
    steps: int


PLANS = {
    seed.TITLE: Plan(
        "The seed experiment: y = x + 3 by a linear net 1-32-32-1 drawn far too large, SGD 0.01, each tensor's norm "
        f"at most {seed.THRESHOLD:g}.\nBiases are clipped in both runs, weights in one. The loss is the squared error.",
        "over all points",
        seed.LOGGED,
        2 * seed.SEEDS,
        seed.STEPS,
    ),
    char_rnn.TITLE: Plan(
        f"A character RNN: {char_rnn.UNITS} tanh units on English text, SGD {char_rnn.LEARNING_RATE:g}.\n"
        "The loss is in bits per character.",
        "in validation",
        char_rnn.LOGGED,
        char_rnn.SEEDS * len(char_rnn.TRIALS),
        char_rnn.STEPS,
    ),
}
COLUMNS = f"    {'step':>5}{'loss':>11}{'gradient norm':>16}{'after clipping':>16}"


class Terminal:
    """Prints the runs of the first seed step by step, and how every run ended."""

    def __init__(self, console: Console, first_seed: int) -> None:
        bars = sys.stdout.isatty() and sys.stderr.isatty() and not console.is_dumb_terminal
        columns = (TextColumn("{task.description:16}"), BarColumn(), TextColumn("{task.percentage:3.0f} %"))
        self._progress = Progress(*columns, TimeElapsedColumn(), console=console, transient=True, disable=not bars)
        self._console = console
        self._first_seed = first_seed
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._progress.stop()

    def begins(self, experiment: str, clipping: str, seed: int, steps: int) -> Watch:
        """A run begins: its steps are logged if it has the first seed."""
        plan = PLANS[experiment]
        if experiment not in self._tasks:
            self._tasks[experiment] = self._progress.add_task(experiment, total=plan.runs * plan.steps)
            self._say(f"\n{plan.heading}\n", style="bold")
        task, logs = self._tasks[experiment], seed == self._first_seed
        if logs:
            self._say(f"  seed {seed}, clipped: {clipping}\n{COLUMNS}")

        def watch(step: Step) -> None:
            self._progress.advance(task)
            if logs and (step.step in plan.logged or not math.isfinite(step.loss)):
                self._say(log_line(step), style=None if math.isfinite(step.loss) else "red")

        return watch

    def ends(self, experiment: str, run: Run) -> None:
        """A run has ended: say how, and move the bar past the steps that it did not come to."""
        plan = PLANS[experiment]
        self._progress.advance(self._tasks[experiment], plan.steps - len(run.steps))
        style = None if run.broke_at is None else "red"
        if run.seed == self._first_seed:
            self._say(f"    {ending(run, plan.result)}\n", style)
        else:
            self._say(f"  seed {run.seed} | clipped: {run.clipping:18} | {ending(run, plan.result)}", style)

    def _say(self, text: str, style: str | None = None) -> None:
        self._console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)


def log_line(step: Step) -> str:
    """A step in a row of the log."""
    after = "" if step.norm_after == step.norm_before else f"{step.norm_after:.3g}"
    return f"    {step.step:>5}{step.loss:>11.4g}{step.norm_before:>16.3g}{after:>16}".rstrip()


def ending(run: Run, result: str) -> str:
    """How a run ended, in words."""
    if run.broke_at is not None:
        return f"loss {run.start:.4g} -> {run.steps[-1].loss:g} at step {run.broke_at}"
    return f"loss {run.start:.4g} -> {run.end:.3g} {result}, gradient norm up to {run.largest_norm:.3g}"
