"""A threshold for a training script by trial: it runs as it is, then under other thresholds, and a measure decides."""

from __future__ import annotations

import errno
import math
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from signal import SIGINT
from statistics import fmean
from typing import Any

from gradclip.advice.judging import BY_LOSS, NOT_JUDGED, Judge, Judged
from gradclip.advice.metric import ABSENT, MOST_NAMES, ScriptMetric, names_in, names_of, rows_of
from gradclip.advice.search import MOST, rule_of, search, start_from
from gradclip.advice.suggestion import expression_of
from gradclip.errors import Stopped
from gradclip.telemetry.runs import Run, folders_of, read_run
from gradclip.verdict.losses import end_of, final_loss, losses_of
from gradclip.verdict.quantiles import quantile
from gradclip.watch.journal import BY_HAND
from gradclip.watch.launch import run_watched

AS_IT_IS = "as-it-is"
"""The folder of the training that nobody interferes with."""
SEED = "--seed"
"""The option by which a script takes a seed."""
SEEDS = 2
"""How many seeds a threshold is tried with, where the script takes one."""


@dataclass(frozen=True)
class Training:
    """One training of the script, recorded in `path`: under a threshold for the global norm, or as it is (None).

    `loss` is the mean of `end`, the losses of the last tenth of the steps; it is infinite where that is not finite, and
    where the script ended with an error. `begin` is the first loss. `judged` is what thresholds are compared by.
    """

    threshold: float | None
    path: Path
    steps: int
    loss: float
    exit: int
    end: tuple[float, ...] = ()
    begin: float | None = None
    judged: Judged = NOT_JUDGED
    seed: int | None = None

    @property
    def rule(self) -> str | None:
        """The rule as text; None for the script as it is."""
        return None if self.threshold is None else rule_of(self.threshold)

    def to_dict(self) -> dict[str, Any]:
        """The training as plain data for JSON, where a number that is not finite is None."""
        loss, metric = (number if math.isfinite(number) else None for number in (self.loss, self.judged.value))
        known = {"rule": self.rule, "run": str(self.path), "steps": self.steps, "loss": loss, "exit": self.exit}
        spread = dict(zip(("lower_quartile", "median"), self.quartiles, strict=True))
        return {**known, **spread, "metric": metric, "seed": self.seed}

    @property
    def quartiles(self) -> tuple[float | None, float | None]:
        """The lower quartile and the median of the losses at the end, which a few huge ones do not move."""
        finite = sorted(loss for loss in self.end if math.isfinite(loss))
        return (quantile(finite, 0.25), quantile(finite, 0.5)) if finite else (None, None)


@dataclass(frozen=True)
class TrialsResult:
    """What the trainings have shown; the first of them is the script as it is.

    `optimizers` is how many it has, `judge` what decides, and `offered` are the names of metrics that the script gives
    and nobody asked for. `unclear` says why nothing is proposed, where the measure is none. `own` is the threshold that
    the script itself has for its global norm: to train under it once more shows what is noise.
    """

    trainings: tuple[Training, ...]
    optimizers: int = 1
    judge: Judge = BY_LOSS
    offered: tuple[str, ...] = ()
    unclear: str = ""
    own: float | None = None

    @property
    def seeds(self) -> list[int | None]:
        """The seeds that the trainings have."""
        return list(dict.fromkeys(training.seed for training in self.trainings))

    def under(self, threshold: float | None) -> list[Training]:
        """The trainings under a threshold, one for each seed."""
        return [training for training in self.trainings if training.threshold == threshold]

    def score(self, threshold: float | None) -> float:
        """How well the trainings under a threshold did together: lower is better."""
        return mean_of([training.judged.score for training in self.under(threshold)])

    @property
    def as_it_is(self) -> Training:
        return self.trainings[0]

    @property
    def best(self) -> Training:
        """The first training under the best threshold, and of equal ones the script as it is, or the first."""
        return min(self.trainings, key=lambda training: self.score(training.threshold))

    @property
    def broken(self) -> bool:
        """Whether no threshold at all let a training end well."""
        return not math.isfinite(self.score(self.best.threshold))

    @property
    def unjudged(self) -> int:
        """How many trainings ended well and gave nothing to judge them by."""
        return sum(not training.judged.ends and not training.exit for training in self.trainings)

    @property
    def leave(self) -> bool:
        """Whether the script is best left as it is: under no threshold it did better, with each seed, than noise."""
        if self.best.threshold in (None, self.own):
            return True
        pairs = zip(self.under(self.best.threshold), self.under(None), strict=False)
        return not all(better.judged.beats(other.judged) for better, other in pairs)

    @property
    def expression(self) -> str | None:
        """The rule of the best training as it is written in Python; None where there is nothing to propose."""
        nothing = self.leave or self.unclear or self.best.rule is None
        return None if nothing else expression_of(str(self.best.rule))

    @property
    def at_edge(self) -> str:
        """ "lowest" or "highest" if the best threshold is that of all that were tried, else nothing."""
        tried = [training.threshold for training in self.trainings if training.threshold is not None]
        edges = {"lowest": min(tried, default=None), "highest": max(tried, default=None)}
        words = edges if edges["lowest"] != edges["highest"] else {}
        return next((word for word, edge in words.items() if edge == self.best.threshold is not None), "")

    def to_dict(self) -> dict[str, Any]:
        """What was found as plain data for JSON."""
        return {
            "kind": "by trial",
            "rule": self.best.rule if self.expression else None,
            "expression": self.expression,
            "leave": self.leave and not self.unclear and not self.broken,
            "unclear": self.unclear,
            "judged_by": str(self.judge),
            "metrics": list(self.offered),
            "optimizers": self.optimizers,
            "trainings": [training.to_dict() for training in self.trainings],
        }


class TrialsStopped(Stopped):
    """Somebody ended the trials by the signal in `args`; `found` is what the trainings have shown that had ended."""

    found: TrialsResult


def mean_of(scores: Sequence[float]) -> float:
    """The mean of scores: infinite where one is, or where there is none."""
    return fmean(scores) if scores and all(map(math.isfinite, scores)) else math.inf


@dataclass(frozen=True)
class TrialPlan:
    """How a script is tried: its command, where, for how many steps, and what it is judged by."""

    command: Sequence[str]
    folder: Path
    steps: int
    judge: Judge
    seeds: Sequence[int | None] = (None,)


def threshold_by_trial(
    command: Sequence[str],
    folder: Path,
    steps: int = 0,
    most: int = MOST,
    on_training: Callable[[Training], None] = lambda training: None,
    metric: ScriptMetric | None = None,
    seeds: int = 0,
) -> TrialsResult:
    """Train the script of `command` as it is, then under at most `most` thresholds for the global norm.

    Each training is recorded to a folder in `folder`, what it prints beside it; after `steps` steps it is ended (0: it
    is not). `on_training` is called with each. `metric` is what is compared, by default the training loss; `seeds` how
    many seeds each threshold is tried with, by default 2 where the script takes `--seed`, else 1. Raises `ValueError`
    where the first has no step, no measure or no usable norm, and where another does not begin as it does. Who
    interrupts the trials, once the script has been trained as it is, gets `TrialsStopped`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    plan = TrialPlan(command, folder, steps, Judge(metric), seeds_for(command, seeds))
    trainings: list[Training] = []

    def train(threshold: float | None) -> float:
        found = []
        for seed in plan.seeds:
            training = train_once(plan, threshold, seed)
            trainings.append(training)
            on_training(training)
            refuse_incomparable(next(one for one in trainings if one.seed == seed), training)
            found.append(training.judged.score)
        return mean_of(found)

    train(None)
    first = trainings[0]
    run = read_run(first.path) if first.steps else Run([])
    if run.about.get("optimizer") == BY_HAND:
        raise ValueError(
            "the script updates its parameters itself, so no rule can take the place of its clip; its norms are "
            f"recorded: gradclip suggest {first.path}"
        )
    start = start_from(run)
    if start is None or not first.judged.ends:
        raise ValueError(f"{missing_in(first, start, plan.judge)}; what it printed: {log_of(first.path)}")
    try:
        search(train, start, most)
    except KeyboardInterrupt as stopped:
        raise TrialsStopped(stopped, result_of(plan, trainings)) from None
    return result_of(plan, trainings)


def result_of(plan: TrialPlan, trainings: Sequence[Training]) -> TrialsResult:
    """What the trainings have shown: of every threshold that was tried with each of the seeds."""
    first = trainings[0]
    whole = [
        one for one in trainings if sum(other.threshold == one.threshold for other in trainings) == len(plan.seeds)
    ]
    runs = [read_run(place) for place in folders_of(first.path)]
    offered = () if plan.judge.metric is not None else tuple(names_in(first.path, log_of(first.path)))
    unclear = plan.judge.unclear(runs, [training.end for training in whole], offered)
    return TrialsResult(tuple(whole), len(runs), plan.judge, offered, unclear, own_threshold(runs))


def own_threshold(runs: Sequence[Run]) -> float | None:
    """The one threshold that a script with one optimizer has for its global norm, as a trial would be called."""
    found = {f"{event.threshold:g}" for event in runs[0] if event.norm == "L2"} if len(runs) == 1 else set()
    return float(found.pop()) if len(found) == 1 else None


def seeds_for(command: Sequence[str], asked: int) -> Sequence[int | None]:
    """The seeds to train with: none where the script does not take one. The first is the script's own.

    Raises `ValueError` where several are asked for and the script takes none.
    """
    if not takes_seed(command):
        if asked > 1:
            raise ValueError(f"the script has no option {SEED}, so there is one seed: leave out --seeds")
        return (None,)
    return (None, *range(1, asked or SEEDS))


def takes_seed(command: Sequence[str]) -> bool:
    """Whether a script has the option `--seed`: it is given, or written in the file."""
    if any(word == SEED or word.startswith(f"{SEED}=") for word in command):
        return True
    script = Path(next((word for word in command if word.endswith(".py")), ""))
    return script.is_file() and f'"{SEED}"' in script.read_text("utf-8", "replace").replace("'", '"')


def with_seed(command: Sequence[str], seed: int | None) -> list[str]:
    """The command with another seed; None leaves it as it is. The last of several counts, as argparse has it."""
    return list(command) if seed is None else [*command, SEED, str(SHIFT + seed)]


SHIFT = 1000
"""Further seeds are numbers from here on, that hardly anybody gives himself."""


def train_once(plan: TrialPlan, threshold: float | None, seed: int | None = None) -> Training:
    """Train once, recorded to a folder in that of the plan."""
    rule = None if threshold is None else rule_of(threshold)
    path = plan.folder / ((AS_IT_IS if rule is None else rule.replace(":", "-")) + (f"-seed-{seed}" if seed else ""))
    before = ABSENT if plan.judge.metric is None else plan.judge.metric.before()
    with open(log_of(path), "w", encoding="utf-8") as log:
        code, died_of, asked = run_watched(with_seed(plan.command, seed), path, plan.steps, rule, log)
    if asked or died_of == SIGINT:
        raise KeyboardInterrupt(asked or SIGINT)
    if code and not shutil.disk_usage(plan.folder).free:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(plan.folder))
    run = read_run(path) if path.exists() else Run([])
    loss, losses = final_loss(run), losses_of(run)
    ended = math.inf if code or loss is None else loss
    judged = plan.judge.of(run, path, log_of(path), broke=bool(code), before=before)
    begin = losses[0] if losses else None
    return Training(threshold, path, len(run), ended, code, tuple(end_of(run)), begin, judged, seed)


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


def missing_in(first: Training, start: float | None, judge: Judge) -> str:
    """What is missing in the first training."""
    if not first.steps:
        return f"the script made no optimizer step (its exit code: {first.exit})"
    if start is None:
        return "no step of the script has a gradient whose norm is finite and above 0"
    if judge.metric is None:
        return "no loss was seen: the script calls backward() on no tensor of one element"
    table = judge.metric.table
    if table is not None and table.is_file():
        names = list(dict.fromkeys(names_of(rows_of(table))))[:MOST_NAMES]
    else:
        names = names_in(first.path, log_of(first.path))
    there = f"; {'it' if table is None else 'the file'} gives {', '.join(names)}" if names else ""
    return f"the script gives no number called {judge.metric}{there}"
