"""The search for a rule without a threshold: rates are tuned, rules judged and runs kept as decision 0051 says."""

import json
import math
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import pytest

import rule_search
from gradclip import Rule
from gradclip.experiments import Metric, TrainingOutcome
from gradclip.rules.text import rule_from_text
from rule_candidates import CANDIDATES
from rule_search import GRID, Problem, Record, Setting, losses, settings, tune

LOWEST = Metric("distance")
SEEDS = (0, 1, 2, 3, 4)


class Lines:
    """A task whose metric is a formula: best at the rate 1, at which a threshold of 1 is best."""

    def __init__(self) -> None:
        self.trained: list[tuple[str, int, float]] = []

    def __call__(self, rule: Rule, seed: int, rate: float, optimizer: object) -> TrainingOutcome:
        limit = rule.threshold.value(0)
        self.trained.append((str(rule), seed, rate))
        clipped = float(limit < 10)
        return TrainingOutcome(abs(math.log10(rate)) + abs(math.log10(min(limit, 10))) + seed / 100, clipped=clipped)


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Lines:
    """The task `bias` in its place, trained in this process."""
    train = Lines()
    own = {"bias": Problem(train, {"sgd": 10.0, "adamw": 1.0}, margin=0.5)}
    monkeypatch.setattr(rule_search, "SETS", {"design": own})
    monkeypatch.setattr(rule_search, "ProcessPoolExecutor", Here)
    return train


class Here:
    """A pool that is this process."""

    def __init__(self, *_: object) -> None: ...

    def __enter__(self) -> "Here":
        return self

    def __exit__(self, *_: object) -> None: ...

    def submit(self, function: Callable[..., object], *arguments: object) -> "Future[object]":
        future: Future[object] = Future()
        future.set_result(function(*arguments))
        return future


def record_of(path: Path, **metrics: list[float | None]) -> Record:
    """A record of one setting, with these metrics by rule; the other thresholds of the grid are bad."""
    record = Record(path)
    record.at("rates", "bias")["sgd"] = 1.0
    for factor in rule_search.FACTORS:
        for rule in (*GRID, *metrics):
            values = metrics.get(rule, [9.0] * 5)
            record.at("runs", "bias", "sgd", factor, rule).update({str(seed): values[seed] for seed in SEEDS})
    return record


def test_the_rate_is_found_by_walking_until_both_sides_are_worse(lines: Lines, tmp_path: Path) -> None:
    record = Record(tmp_path / "record.json")
    tune(record, ["bias"], 1)
    assert record.data["rates"]["bias"] == {"sgd": pytest.approx(1.0), "adamw": pytest.approx(1.0)}
    rates = sorted(map(float, record.data["tuning"]["bias"]["sgd"]))
    assert rates == pytest.approx([10**power for power in (-0.5, 0.0, 0.5, 1.0, 1.5)])
    assert {seed for _, seed, _ in lines.trained} == {10, 11, 12}


def test_what_is_in_the_record_is_not_trained_again(lines: Lines, tmp_path: Path) -> None:
    record = Record(tmp_path / "record.json")
    jobs = rule_search.tuning_jobs("bias", "sgd", 1.0)
    record.train(jobs[:5], 1)
    again = Record(tmp_path / "record.json")
    again.train(jobs, 1)
    assert len(lines.trained) == len(jobs)
    assert json.loads((tmp_path / "record.json").read_text())["versions"]["gradclip"]


def test_thresholds_that_nothing_reaches_are_trained_once(lines: Lines, tmp_path: Path) -> None:
    record = Record(tmp_path / "record.json")
    record.at("rates", "bias")["sgd"] = 1.0
    record.train_grid(["bias"], 1)
    found = Record(tmp_path / "record.json").at("runs", "bias", "sgd", "1")
    assert {rule: metrics["2"] for rule, metrics in found.items()} == pytest.approx(
        dict(zip(GRID, (2.02, 1.54288, 1.02, 0.54288, 0.02, 0.49712, 1.02, 1.02, 1.02, 1.02), strict=True)), abs=1e-5
    )
    assert len(lines.trained) == 3 * 5 * 7
    record.train_grid(["bias"], 1)
    assert len(lines.trained) == 3 * 5 * 7


def test_a_rule_loses_where_it_is_worse_on_all_seeds_and_by_more_than_the_margin(tmp_path: Path) -> None:
    # the margin of the bias is 0.05
    best = [1.0, 1.1, 1.2, 1.3, 1.4]
    record = record_of(
        tmp_path / "none.json",
        **{"global:1": best},
        far=[value + 0.06 for value in best],
        near=[value + 0.04 for value in best],
        mixed=[0.99, *(value + 1.0 for value in best[1:])],
        broken=[None] * 5,
    )
    lost = {rule: [loss.lost for loss in losses(record, rule, SEEDS, ["bias"])] for rule in (*GRID, "far", "near")}
    assert lost["far"] == [True] * 3
    assert lost["near"] == [False] * 3
    assert lost["global:1"] == [False] * 3
    assert lost["none"] == [True] * 3
    assert [loss.lost for loss in losses(record, "mixed", SEEDS, ["bias"])] == [False] * 3
    assert [loss.lost for loss in losses(record, "broken", SEEDS, ["bias"])] == [True] * 3
    assert {loss.best for loss in losses(record, "far", SEEDS, ["bias"])} == {"global:1"}


def test_a_relative_margin_is_a_share_of_the_best() -> None:
    tenth = Problem(lambda *_: 0.0, {}, margin=0.1, relative=True)
    assert [tenth.above(cost, 20.0) for cost in (23.0, 21.0, 20.0, math.inf)] == [1.5, 0.5, 0.0, math.inf]
    assert tenth.above(math.inf, math.inf) == 0.0
    assert Problem(lambda *_: None, {}, margin=0.01).above(-0.95, -0.97) == pytest.approx(2.0)


def test_settings_are_the_tuned_rate_its_third_and_thrice(tmp_path: Path) -> None:
    found = dict(settings(record_of(tmp_path / "none.json"), ["bias"]))
    assert {setting.rate: place[-1] for setting, place in found.items()} == pytest.approx(
        {1 / 3: "1/3", 1.0: "1", 3.0: "3"}
    )
    assert all(isinstance(setting, Setting) for setting in found)


@pytest.mark.parametrize("task", [*rule_search.DESIGN, *rule_search.TEST])
def test_every_task_has_a_rate_to_begin_with_for_each_optimizer(task: str) -> None:
    assert rule_search.problem_called(task).rates.keys() == rule_search.OPTIMIZERS.keys()


@pytest.mark.parametrize("name", CANDIDATES)
def test_every_candidate_says_what_it_is_and_trains(name: str) -> None:
    assert str(CANDIDATES[name])
    for optimizer in rule_search.OPTIMIZERS.values():
        metric = rule_search.heavy_tails.train(CANDIDATES[name], 0, steps=25, rate=0.01, optimizer=optimizer).metric
        assert math.isfinite(metric)


def test_a_text_is_a_rule_where_no_candidate_has_its_name() -> None:
    assert rule_search.rule_called("global:1") == rule_from_text("global:1")
