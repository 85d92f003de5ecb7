"""The search for a rule without a threshold: what is trained, how a rule is judged, and the record of all of it.

    python docs/rule_search.py tune                 find the learning rate of each task and optimizer
    python docs/rule_search.py fixed                train under the thresholds of the grid
    python docs/rule_search.py try NAME ...         train under candidates of `rule_candidates.py`
    python docs/rule_search.py show                 what each rule lost, from the record
    python docs/rule_search.py try NAME --set test  the same on the tasks that no search has seen: once, at the end

Trained is what the record, `docs/evidence/rule-search.json`, does not have yet; it is written as runs end. The protocol
is that of decision 0051.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import torch

from gradclip.experiments.outcome import Metric, TrainingOutcome
from gradclip.experiments.tasks import (
    actor_critic,
    amp_digits,
    bad_batches,
    bias,
    char_lm,
    digits,
    gan,
    heavy_tails,
    l0l1,
    label_noise,
    outliers,
    temporal_order,
)
from gradclip.experiments.tasks.descent import MakeOptimizer
from gradclip.experiments.tasks.task import task_called
from gradclip.experiments.training.training_run import number
from gradclip.experiments.versions import versions
from gradclip.rules.rule import AnyRule
from gradclip.rules.text import rule_from_text
from rule_candidates import CANDIDATES, SHAPED, Spamp

RECORD = Path(__file__).resolve().parent / "evidence" / "rule-search.json"
SEEDS, TUNED_ON, SCREENED_ON = (0, 1, 2, 3, 4), (10, 11, 12), (0, 1)
GRID = (*(f"global:{limit}" for limit in ("0.01", "0.03", "0.1", "0.3", "1", "3", "10", "30", "100")), "none")
COARSE = ("none", "global:0.1", "global:1", "global:10")
MOMENTUM = 0.9
OPTIMIZERS: dict[str, MakeOptimizer] = {"sgd": partial(torch.optim.SGD, momentum=MOMENTUM), "adamw": torch.optim.AdamW}
FACTORS = {"1/3": 1 / 3, "1": 1.0, "3": 3.0}
LADDER = 10**0.5
LONGEST = 12
"""How many learning rates are tried at most for one task and optimizer."""
SAVED_EVERY = 20.0
"""Seconds."""

Train = Callable[[AnyRule, int, float, MakeOptimizer], TrainingOutcome]
"""A training: rule, seed, learning rate, optimizer."""


@dataclass(frozen=True)
class Problem:
    """A task in a length that a search can afford: from which rate by optimizer the ladder begins, and by how much the
    metric of two rules may differ before it matters; `relative` is in shares of the better one."""

    train: Train
    rates: Mapping[str, float]
    margin: float
    relative: bool = False

    def above(self, cost: float, best: float) -> float:
        """How many margins `cost` lies above `best`."""
        if cost == best:
            return 0.0
        return (cost - best) / (self.margin * (abs(best) if self.relative else 1.0))


def _at_rate(train: Callable[..., Any], **options: Any) -> Train:
    return lambda rule, seed, rate, optimizer: train(rule, seed, rate=rate, optimizer=optimizer, **options)


def _digits(rule: AnyRule, seed: int, rate: float, optimizer: MakeOptimizer) -> TrainingOutcome:
    return digits.train(rule, seed, epochs=8, rates=(rate,), optimizer=optimizer)


def _l0l1(rule: AnyRule, seed: int, rate: float, optimizer: MakeOptimizer) -> TrainingOutcome:
    return l0l1.train(rule, seed, steps=1500, step_sizes=(rate,), optimizer=optimizer)


DESIGN = {
    "temporal-order": Problem(
        _at_rate(temporal_order.train, steps=1000, length=20), {"sgd": 0.03, "adamw": 0.01}, margin=0.02
    ),
    "char-lm": Problem(_at_rate(char_lm.train, steps=300), {"sgd": 0.3, "adamw": 0.01}, margin=0.02),
    "bad-batches": Problem(_at_rate(bad_batches.train, steps=340), {"sgd": 0.3, "adamw": 0.01}, margin=0.02),
    "digits": Problem(_digits, {"sgd": 0.1, "adamw": 0.01}, margin=0.01),
    "heavy-tails": Problem(
        _at_rate(heavy_tails.train, steps=2000), {"sgd": 0.001, "adamw": 0.01}, margin=0.1, relative=True
    ),
    "l0l1": Problem(_l0l1, {"sgd": 0.1, "adamw": 0.3}, margin=0.1, relative=True),
    "bias": Problem(_at_rate(bias.train, steps=4000), {"sgd": 0.001, "adamw": 0.01}, margin=0.05),
}

TEST = {
    "amp-digits": Problem(_at_rate(amp_digits.train), {"sgd": 0.03, "adamw": 0.01}, margin=0.01),
    "label-noise": Problem(_at_rate(label_noise.train), {"sgd": 0.3, "adamw": 0.003}, margin=0.02),
    "actor-critic": Problem(_at_rate(actor_critic.train), {"sgd": 0.01, "adamw": 0.003}, margin=20.0),
    "outliers": Problem(_at_rate(outliers.train), {"sgd": 0.003, "adamw": 0.01}, margin=0.1, relative=True),
    "gan": Problem(_at_rate(gan.train), {"sgd": 0.03, "adamw": 0.003}, margin=0.2, relative=True),
}
SETS = {"design": DESIGN, "test": TEST}


class Setting(NamedTuple):
    """What is trained, but for the rule and the seed."""

    task: str
    optimizer: str
    rate: float


class Job(NamedTuple):
    """One training, and where its metric goes in the record."""

    setting: Setting
    rule: str
    seed: int
    place: tuple[str, ...]


def problem_called(task: str) -> Problem:
    return next(tasks[task] for tasks in SETS.values() if task in tasks)


def rule_called(name: str) -> AnyRule:
    """A candidate, or a rule by its text."""
    return CANDIDATES[name] if name in CANDIDATES else rule_from_text(name)


def metric_of(job: Job) -> float | None:
    """The metric of a training; None where it is not finite, as JSON has it."""
    return number(outcome_of(job.setting, job.rule, job.seed).metric)


def metrics_of_grid(setting: Setting, seed: int) -> dict[str, float | None]:
    """The metric of a training by each threshold. Above one that nothing reaches, none clips either: they train alike,
    and once is enough."""
    metrics: dict[str, float | None] = {}
    for rule in GRID:
        outcome = outcome_of(setting, rule, seed)
        metrics[rule] = number(outcome.metric)
        if outcome.clipped == 0.0:
            break
    return {rule: metrics.get(rule, metrics[next(reversed(metrics))]) for rule in GRID}


def outcome_of(setting: Setting, rule: str, seed: int) -> TrainingOutcome:
    torch.set_num_threads(1)
    train, made = problem_called(setting.task).train, OPTIMIZERS[setting.optimizer]
    return train(rule_called(rule), seed, setting.rate, partial(shaped, made) if rule == SHAPED else made)


def shaped(make: MakeOptimizer, parameters: Iterable[torch.nn.Parameter], rate: float) -> torch.optim.Optimizer:
    """The optimizer, before whose steps gradients are shaped."""
    optimizer = make(parameters, rate)
    optimizer.register_step_pre_hook(Spamp())
    return optimizer


class Record:
    """The document: places are paths of names, at the end of which stands a metric by seed."""

    def __init__(self, path: Path = RECORD) -> None:
        self.path = path
        self.data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def at(self, *place: str) -> dict[str, Any]:
        """What stands at a place, which is made where it is not there."""
        found = self.data
        for name in place:
            found = found.setdefault(name, {})
        return found

    def costs(self, place: tuple[str, ...], seeds: Iterable[int], metric: Metric) -> list[float]:
        """The costs at a place, by seed; `KeyError` where one was not trained."""
        found = self.at(*place)
        return [math.inf if (value := found[str(seed)]) is None else metric.cost(value) for seed in seeds]

    def lacks(self, job: Job) -> bool:
        return str(job.seed) not in self.at(*job.place)

    def train(self, jobs: Iterable[Job], processes: int) -> None:
        """Train what is not there yet."""
        for job, metric in self._done(metric_of, [(job,) for job in jobs if self.lacks(job)], processes):
            self.at(*job[0].place)[str(job[0].seed)] = metric

    def train_grid(self, tasks: Iterable[str], processes: int) -> None:
        """Train under every threshold of the grid what is not there yet."""
        places = dict(settings(self, tasks))
        lacking = [
            (setting, seed)
            for setting, place in places.items()
            for seed in SEEDS
            if any(self.lacks(Job(setting, rule, seed, (*place, rule))) for rule in GRID)
        ]
        for (setting, seed), metrics in self._done(metrics_of_grid, lacking, processes):
            for rule, metric in metrics.items():
                self.at(*places[setting], rule)[str(seed)] = metric

    def _done(self, function: Callable[..., Any], calls: list[Any], processes: int) -> Iterator[tuple[Any, Any]]:
        """Each call with what came of it; what its caller has put into the record is saved now and then."""
        began = saved = time.monotonic()
        with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
            futures = {pool.submit(function, *call): call for call in calls}
            for done, future in enumerate(as_completed(futures), 1):
                yield futures[future], future.result()
                if time.monotonic() - saved > SAVED_EVERY:
                    self.save()
                    saved = time.monotonic()
                    left = (saved - began) * (len(calls) - done) / done
                    print(f"{done} of {len(calls)}, some {left / 60:.0f} min left", file=sys.stderr, flush=True)
        self.save()

    def save(self) -> None:
        """Write the document, whole or not at all."""
        self.data["versions"] = versions()
        beside = self.path.with_suffix(".part")
        beside.write_text(written(self.data) + "\n", encoding="utf-8")
        os.replace(beside, self.path)


def written(data: Mapping[str, Any], indent: str = "") -> str:
    """JSON with a line for each rule."""
    if not any(isinstance(value, dict) for value in data.values()):
        return json.dumps(data)
    deeper = indent + " "
    lines = (f"{deeper}{json.dumps(name)}: {written(value, deeper)}" for name, value in data.items())
    return "{\n" + ",\n".join(lines) + f"\n{indent}}}"


def tuning_jobs(task: str, optimizer: str, rate: float) -> list[Job]:
    """A rate under each threshold of the coarse grid."""
    setting = Setting(task, optimizer, rate)
    return [
        Job(setting, rule, seed, ("tuning", task, optimizer, f"{rate:g}", rule)) for rule in COARSE for seed in TUNED_ON
    ]


def tune(record: Record, tasks: Sequence[str], processes: int) -> None:
    """Walk along the ladder of rates until the best one has a worse one on either side."""
    walked = [(task, optimizer) for task in tasks for optimizer in OPTIMIZERS]
    while walked:
        rates = {pair: _next_rates(record, *pair) for pair in walked}
        record.train(
            (job for pair, new in rates.items() for rate in new for job in tuning_jobs(*pair, rate)), processes
        )
        walked = [pair for pair in walked if _next_rates(record, *pair)]
    for task in tasks:
        for optimizer in OPTIMIZERS:
            record.at("rates", task)[optimizer] = float(_best_rate(record, task, optimizer))
    record.save()


def _next_rates(record: Record, task: str, optimizer: str) -> list[float]:
    """The rates to try next; none where the best is known."""
    tried = sorted(map(float, record.at("tuning", task, optimizer)))
    if not tried:
        first = problem_called(task).rates[optimizer]
        return [first / LADDER, first, first * LADDER]
    if len(tried) >= LONGEST:
        return []
    best = float(_best_rate(record, task, optimizer))
    return [tried[0] / LADDER] * (best == tried[0]) + [tried[-1] * LADDER] * (best == tried[-1])


def _best_rate(record: Record, task: str, optimizer: str) -> str:
    """The rate whose best threshold has the best median."""
    metric = task_called(task).metric

    def cost(rate: str) -> float:
        places = [("tuning", task, optimizer, rate, rule) for rule in COARSE]
        return min(statistics.median(record.costs(place, TUNED_ON, metric)) for place in places)

    return min(record.at("tuning", task, optimizer), key=cost)


def settings(
    record: Record, tasks: Iterable[str], optimizers: Collection[str] = OPTIMIZERS
) -> Iterator[tuple[Setting, tuple[str, ...]]]:
    """Every setting of the tasks under these optimizers, with its place in the record."""
    for task in tasks:
        rates = record.at("rates", task)
        for optimizer, rate in ((one, rates[one]) for one in optimizers if one in rates):
            for name, factor in FACTORS.items():
                yield Setting(task, optimizer, rate * factor), ("runs", task, optimizer, name)


def jobs(
    record: Record,
    rules: Iterable[str],
    seeds: Iterable[int],
    tasks: Sequence[str],
    optimizers: Collection[str] = OPTIMIZERS,
) -> list[Job]:
    """Every training of the rules under these optimizers."""
    return [
        Job(setting, rule, seed, (*place, rule))
        for rule in rules
        for setting, place in settings(record, tasks, optimizers)
        for seed in seeds
    ]


class Loss(NamedTuple):
    """How a rule did in a setting, against the best fixed threshold of the grid."""

    place: tuple[str, ...]
    best: str
    best_median: float
    median: float
    lost: bool

    def __str__(self) -> str:
        _, task, optimizer, factor = self.place
        return f"{task:15}{optimizer:6}{factor:4}{self.best:>12} {self.best_median:8.4g} {self.median:8.4g}"


def costs_of_grid(record: Record, tasks: Iterable[str]) -> Iterator[tuple[tuple[str, ...], dict[str, float]]]:
    """The place of each setting, and by how many margins the median of each threshold is above the best."""
    for setting, place in settings(record, tasks):
        metric, problem = task_called(setting.task).metric, problem_called(setting.task)
        medians = {rule: statistics.median(record.costs((*place, rule), SEEDS, metric)) for rule in GRID}
        best = min(medians.values())
        yield place, {rule: problem.above(median, best) for rule, median in medians.items()}


def losses(
    record: Record,
    rule: str,
    seeds: tuple[int, ...],
    tasks: Iterable[str],
    optimizers: Collection[str] = OPTIMIZERS,
) -> list[Loss]:
    """Each setting: lost where the rule is worse on every seed, and by more than the margin in the median."""
    found = []
    for setting, place in settings(record, tasks, optimizers):
        metric = task_called(setting.task).metric
        fixed = {text: record.costs((*place, text), seeds, metric) for text in GRID}
        best = min(fixed, key=lambda text: statistics.median(fixed[text]))
        ours, theirs = record.costs((*place, rule), seeds, metric), fixed[best]
        medians = statistics.median(theirs), statistics.median(ours)
        worse = all(a > b for a, b in zip(ours, theirs, strict=True))
        lost = worse and problem_called(setting.task).above(medians[1], medians[0]) > 1.0
        found.append(Loss(place, best, *medians, lost))
    return found


def show(record: Record, rules: Iterable[str], seeds: tuple[int, ...], tasks: Sequence[str], details: bool) -> None:
    """What each rule lost, the best first."""
    tables = {rule: losses(record, rule, seeds, tasks) for rule in rules}
    for rule, table in sorted(tables.items(), key=lambda pair: sum(loss.lost for loss in pair[1])):
        print(f"{sum(loss.lost for loss in table):3} of {len(table)} lost: {rule}")
        if details:
            print(*(f"    {loss}" for loss in table if loss.lost), sep="\n")


def trained(
    record: Record, seeds: Sequence[int], tasks: Sequence[str], optimizers: Collection[str] = OPTIMIZERS
) -> list[str]:
    """The rules that were trained on all these tasks and seeds under these optimizers."""
    names = list(dict.fromkeys(name for _, place in settings(record, tasks, optimizers) for name in record.at(*place)))
    return [name for name in names if not any(map(record.lacks, jobs(record, [name], seeds, tasks, optimizers)))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("tune", "fixed", "try", "show"))
    parser.add_argument("rules", nargs="*")
    parser.add_argument("--screen", action="store_true", help="two seeds instead of five")
    parser.add_argument("--details", action="store_true")
    parser.add_argument("--set", choices=SETS, default="design", help="the tasks, if they are not named one by one")
    parser.add_argument("--tasks", nargs="+")
    parser.add_argument("--optimizers", nargs="+", default=list(OPTIMIZERS))
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    record, seeds = Record(), SCREENED_ON if options.screen else SEEDS
    tasks = options.tasks or list(SETS[options.set])
    if options.action == "tune":
        tune(record, tasks, options.processes)
    elif options.action == "fixed":
        record.train_grid(tasks, options.processes)
    elif options.action == "try":
        record.train(jobs(record, options.rules, seeds, tasks, options.optimizers), options.processes)
    else:
        show(record, options.rules or trained(record, seeds, tasks), seeds, tasks, options.details)


if __name__ == "__main__":
    main()
