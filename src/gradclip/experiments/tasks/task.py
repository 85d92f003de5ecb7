"""What a task is: a training function, what it is measured by, and the published claims that it puts to the test."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from gradclip.experiments.compare import Named, OnRun, Train, compare
from gradclip.experiments.comparison import EQUAL, Comparison
from gradclip.experiments.outcome import Metric
from gradclip.experiments.sign_test import BETTER, TOO_FEW, WITHIN_NOISE, WORSE
from gradclip.experiments.tasks.titles import TITLES

ANSWERS = {
    BETTER: "reproduced",
    WORSE: "not reproduced, it is the other way round",
    EQUAL: "not reproduced, both are equal",
    WITHIN_NOISE: "not reproduced, within noise",
    TOO_FEW: "not decided, too few seeds",
}
"""What a verdict says of a claim."""


@dataclass(frozen=True)
class Claim:
    """A published statement that `better` does better than `than`, with its source (authors, year, arXiv number)."""

    words: str
    source: str
    better: str
    than: str

    def is_about(self, comparison: Comparison) -> bool:
        """Whether both rules were compared."""
        return self.better in comparison and self.than in comparison

    def reproduced(self, comparison: Comparison) -> bool:
        """Whether `better` is better than `than` here, by the sign test."""
        return comparison.verdict(self.better, self.than) == BETTER

    def result(self, comparison: Comparison) -> str:
        """What became of the statement, in words."""
        wins, seeds = comparison.wins(self.better, self.than), len(comparison.seeds)
        found = ANSWERS[comparison.verdict(self.better, self.than)]
        return f"{found}: {self.better} beat {self.than} on {wins} of {seeds} seeds"


@dataclass(frozen=True)
class Task:
    """A task: `about` says what is trained and measured, `rules` are compared if nobody asks for others."""

    name: str
    about: str
    claims: tuple[Claim, ...]
    metric: Metric
    rules: tuple[str, ...]
    train: Train

    @property
    def title(self) -> str:
        """What is trained, in a few words."""
        return TITLES[self.name].title

    def compare(
        self,
        rules: Named | None = None,
        seeds: int | Iterable[int] = 5,
        processes: int = 1,
        on_run: OnRun = lambda text, trained: None,
        keep: Path | None = None,
    ) -> Comparison:
        """The task under several rules, its own if none are given; `keep` is as for `compare`."""
        return compare(
            self.train,
            self.rules if rules is None else rules,
            seeds,
            metric=self.metric,
            title=self.title,
            processes=processes,
            on_run=on_run,
            keep=keep,
        )


def task_called(name: str) -> Task:
    """The task with this name, imported now; `KeyError` if there is none."""
    if name not in TITLES:
        raise KeyError(f"no task {name!r}: there are {', '.join(TITLES)}")
    task: Task = importlib.import_module(f"gradclip.experiments.tasks.{name.replace('-', '_')}").TASK
    return task
