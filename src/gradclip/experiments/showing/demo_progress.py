"""The demo in a terminal: log lines as training goes, below them a progress bar for each experiment."""

from __future__ import annotations

import math
from typing import NamedTuple

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn

from gradclip.experiments.demo import DemoObserver
from gradclip.experiments.showing.progress import ProgressDisplay
from gradclip.experiments.training import char_rnn, exploding_net
from gradclip.experiments.training.loop import OnStep
from gradclip.experiments.training.training_run import TrainingRun, TrainingStep


class ExperimentOutline(NamedTuple):
    """What is known of an experiment before it runs."""

    heading: str
    result: str
    logged: frozenset[int]
    runs: int
    steps: int


OUTLINES = {
    exploding_net.TITLE: ExperimentOutline(
        "The seed experiment: y = x + 3 by a linear net 1-32-32-1 drawn far too large, SGD 0.01, each tensor's norm "
        f"at most {exploding_net.THRESHOLD:g}.\nBiases are clipped in both runs, weights in one. "
        "The loss is the squared error.",
        "over all points",
        exploding_net.LOGGED,
        2 * exploding_net.SEEDS,
        exploding_net.STEPS,
    ),
    char_rnn.TITLE: ExperimentOutline(
        f"A character RNN: {char_rnn.UNITS} tanh units on English text, SGD {char_rnn.LEARNING_RATE:g}.\n"
        "The loss is in bits per character.",
        "in validation",
        char_rnn.LOGGED,
        char_rnn.SEEDS * len(char_rnn.SETUPS),
        char_rnn.STEPS,
    ),
}
COLUMNS = f"    {'step':>5}{'loss':>11}{'gradient norm':>16}{'after clipping':>16}"


class DemoProgress(ProgressDisplay, DemoObserver):
    """Prints the runs of the first seed step by step, and how every run ended."""

    def __init__(self, console: Console, first_seed: int) -> None:
        super().__init__(
            console,
            TextColumn("{task.description:16}"),
            BarColumn(),
            TextColumn("{task.percentage:3.0f} %"),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("so far"),
        )
        self._first_seed = first_seed
        self._tasks: dict[str, TaskID] = {}

    def begins(self, experiment: str, clipping: str, seed: int, steps: int) -> OnStep:
        """A run begins: its steps are logged if it has the first seed."""
        plan = OUTLINES[experiment]
        if experiment not in self._tasks:
            self._tasks[experiment] = self.progress.add_task(experiment, total=plan.runs * plan.steps)
            self.print(f"\n{plan.heading}\n", style="bold")
        task, logs = self._tasks[experiment], seed == self._first_seed
        if logs:
            self.print(f"  seed {seed}, clipped: {clipping}\n{COLUMNS}")

        def on_step(step: TrainingStep) -> None:
            self.progress.advance(task)
            if logs and (step.step in plan.logged or not math.isfinite(step.loss)):
                self.print(log_line(step), style=None if math.isfinite(step.loss) else "red")

        return on_step

    def ends(self, experiment: str, run: TrainingRun) -> None:
        """A run has ended: say how, and move the bar past the steps that it did not come to."""
        plan = OUTLINES[experiment]
        self.progress.advance(self._tasks[experiment], plan.steps - len(run.steps))
        style = None if run.broke_at is None else "red"
        if run.seed == self._first_seed:
            self.print(f"    {ending(run, plan.result)}\n", style)
        else:
            self.print(f"  seed {run.seed} | clipped: {run.clipping:18} | {ending(run, plan.result)}", style)


def log_line(step: TrainingStep) -> str:
    """A step in a row of the log."""
    after = "" if step.norm_after == step.norm_before else f"{step.norm_after:.3g}"
    return f"    {step.step:>5}{step.loss:>11.4g}{step.norm_before:>16.3g}{after:>16}".rstrip()


def ending(run: TrainingRun, result: str) -> str:
    """How a run ended, in words."""
    if run.broke_at is not None:
        return f"loss {run.start:.4g} -> {run.steps[-1].loss:g} at step {run.broke_at}"
    return f"loss {run.start:.4g} -> {run.end:.3g} {result}, gradient norm up to {run.largest_norm:.3g}"
