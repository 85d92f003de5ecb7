"""A threshold for a training script by trial: it runs as it is, then under other thresholds, and the loss decides."""

from __future__ import annotations

import errno
import math
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from signal import SIGINT
from typing import Any

from gradclip.advice.search import MOST, rule_of, search, start_from
from gradclip.advice.suggestion import expression_of
from gradclip.telemetry.runs import folders_of, read_run
from gradclip.verdict.losses import end_of, final_loss, losses_of, lower
from gradclip.watch.launch import run_watched

AS_IT_IS = "as-it-is"
"""The folder of the training that nobody interferes with."""


@dataclass(frozen=True)
class Training:
    """One training of the script, recorded in `path`: under a threshold for the global norm, or as it is (None).

    `loss` is the mean of `end`, the losses of the last tenth of the steps; it is infinite where that is not finite, and
    where the script ended with an error. `begin` is the first loss.
    """

    threshold: float | None
    path: Path
    steps: int
    loss: float
    exit: int
    end: tuple[float, ...] = ()
    begin: float | None = None

    @property
    def rule(self) -> str | None:
        """The rule as text; None for the script as it is."""
        return None if self.threshold is None else rule_of(self.threshold)

    def to_dict(self) -> dict[str, Any]:
        """The training as plain data for JSON, where a loss that is not finite is None."""
        loss = self.loss if math.isfinite(self.loss) else None
        return {"rule": self.rule, "run": str(self.path), "steps": self.steps, "loss": loss, "exit": self.exit}


@dataclass(frozen=True)
class TrialsResult:
    """What the trainings have shown; the first of them is the script as it is. `optimizers` is how many it has."""

    trainings: tuple[Training, ...]
    optimizers: int = 1

    @property
    def as_it_is(self) -> Training:
        return self.trainings[0]

    @property
    def best(self) -> Training:
        """The training with the lowest loss, and of equal ones the script as it is, or the first."""
        return min(self.trainings, key=lambda training: training.loss)

    @property
    def broken(self) -> bool:
        """Whether no training at all ended at a finite loss."""
        return not math.isfinite(self.best.loss)

    @property
    def leave(self) -> bool:
        """Whether the script is best left as it is: under no threshold it ended lower by more than noise."""
        well = math.isfinite(self.as_it_is.loss)
        return not lower(self.best.end, self.as_it_is.end) if well else self.best.threshold is None

    @property
    def expression(self) -> str | None:
        """The rule of the best training as it is written in Python; None where the script is best left as it is."""
        return None if self.leave or self.best.rule is None else expression_of(self.best.rule)

    @property
    def at_edge(self) -> str:
        """ "lowest" or "highest" if the best threshold is that of all that were tried, else nothing."""
        tried = [training.threshold for training in self.trainings if training.threshold is not None]
        edges = {"lowest": min(tried, default=None), "highest": max(tried, default=None)}
        return next((word for word, edge in edges.items() if edge == self.best.threshold is not None), "")

    def to_dict(self) -> dict[str, Any]:
        """What was found as plain data for JSON."""
        return {
            "kind": "by trial",
            "rule": None if self.leave else self.best.rule,
            "expression": self.expression,
            "leave": self.leave,
            "optimizers": self.optimizers,
            "trainings": [training.to_dict() for training in self.trainings],
        }


def threshold_by_trial(
    command: Sequence[str],
    folder: Path,
    steps: int = 0,
    most: int = MOST,
    on_training: Callable[[Training], None] = lambda training: None,
) -> TrialsResult:
    """Train the script of `command` as it is, then under at most `most` thresholds for the global norm.

    Each training is recorded to a folder in `folder`, what it prints beside it; after `steps` steps it is ended (0: it
    is not). `on_training` is called with each. Raises `ValueError` where the first has no step, no loss or no usable
    norm, and where another does not begin as it does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    trainings: list[Training] = []

    def train(threshold: float | None) -> Training:
        training = train_once(command, folder, steps, threshold)
        trainings.append(training)
        on_training(training)
        refuse_incomparable(trainings[0], training)
        return training

    first = train(None)
    run = read_run(first.path) if first.steps else []
    start = start_from(run)
    if start is None or final_loss(run) is None:
        raise ValueError(f"{missing_in(first, start)}; what it printed: {log_of(first.path)}")
    search(lambda threshold: train(threshold).loss, start, most)
    return TrialsResult(tuple(trainings), len(folders_of(first.path)))


def train_once(command: Sequence[str], folder: Path, steps: int, threshold: float | None) -> Training:
    """Train once, recorded to a folder in `folder`."""
    rule = None if threshold is None else rule_of(threshold)
    path = folder / (AS_IT_IS if rule is None else rule.replace(":", "-"))
    with open(log_of(path), "w", encoding="utf-8") as log:
        code, died_of, asked = run_watched(command, path, steps, rule, log)
    if asked or died_of == SIGINT:
        raise KeyboardInterrupt(asked or SIGINT)
    if code and not shutil.disk_usage(folder).free:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
    run = read_run(path) if path.exists() else []
    loss, losses = final_loss(run), losses_of(run)
    ended = math.inf if code or loss is None else loss
    return Training(threshold, path, len(run), ended, code, tuple(end_of(run)), losses[0] if losses else None)


def refuse_incomparable(first: Training, other: Training) -> None:
    """Raise where a training cannot be compared with the first, which no rule has a part in."""
    if other.rule is not None and other.exit and not other.steps:
        raise ValueError(
            f"the script, which ran as it is, ends with {other.exit} before its first step under {other.rule}; "
            f"what it printed: {log_of(other.path)}"
        )
    if other.begin is not None and first.begin is not None and not same_loss(first.begin, other.begin):
        raise ValueError(
            f"two trainings do not begin alike (the first loss is {first.begin:g}, then {other.begin:g}), so their "
            "ends say nothing of the rule: seed the script (torch.manual_seed), and let it not go on from a checkpoint"
        )


def same_loss(loss: float, other: float) -> bool:
    """Whether two losses are the same but for the order in which threads add up."""
    return loss == other or math.isclose(loss, other, rel_tol=1e-3)


def log_of(path: Path) -> Path:
    """Where the output of the training in `path` is."""
    return path.parent / f"{path.name}.log"


def missing_in(first: Training, start: float | None) -> str:
    """What is missing in the first training."""
    if not first.steps:
        return f"the script made no optimizer step (its exit code: {first.exit})"
    if start is None:
        return "no step of the script has a gradient whose norm is finite and above 0"
    return "no loss was seen: the script calls backward() on no tensor of one element"
