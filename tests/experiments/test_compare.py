"""Comparing rules on a user's own training: verdicts by hand, documents there and back, table and picture."""

import io
import json
import math
import os
import signal
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

import gradclip
from experiments.paired import compared
from gradclip import ClipGradByGlobalNorm
from gradclip.experiments import Comparison, ComparisonStopped, Contender, Metric, Trained, TrainingOutcome, compare
from gradclip.experiments.showing.comparison_picture import draw, save_picture
from gradclip.experiments.showing.comparison_report import ComparisonProgress
from gradclip.experiments.showing.comparison_table import between, columns, differences, diverged_runs, figure, tables
from gradclip.experiments.sign_test import BETTER, TOO_FEW, WITHIN_NOISE, WORSE, chance, paired_verdict
from gradclip.rules.rule import AnyRule

WITH_SOURCE = {**os.environ, "PYTHONPATH": str(Path(gradclip.__file__).parents[1])}


def descend(rule: AnyRule, seed: int) -> TrainingOutcome:
    """Two steps on x^4 / 4 at a rate of 0.1 from 10 + seed: without clipping they jump past -90."""
    weight = torch.nn.Parameter(torch.tensor([10.0 + seed]))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    clipper = gradclip.attach(optimizer, rule)
    curve, clipped = [], 0
    for step in (1, 2):
        optimizer.zero_grad()
        (weight**4 / 4).sum().backward()
        optimizer.step()
        clipped += clipper.last.clipped
        curve.append((float(step), abs(weight.item())))
    return TrainingOutcome(curve[-1][1], curve=tuple(curve), clipped=clipped / 2)


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return compare(descend, ["none", "global:1", "global:2"], metric=Metric("distance", log="y"), title="a jump")


def test_the_metrics_are_those_of_the_training(comparison: Comparison) -> None:
    # x - 0.1 * min(1, t / x^3) * x^3 twice, which is x - 0.2 t while x^3 > t.
    assert comparison["global:1"].metrics == pytest.approx([9.8 + seed for seed in range(5)])
    assert comparison["global:2"].metrics == pytest.approx([9.6 + seed for seed in range(5)])
    assert comparison.median("global:1") == pytest.approx(11.8)
    assert comparison.spread("global:2") == pytest.approx((9.6, 13.6))
    assert comparison["global:1"].clipped == 1.0
    assert comparison["none"].clipped == 0.0


def test_rules_are_compared_with_the_first_and_with_each_other(comparison: Comparison) -> None:
    assert comparison.verdict("global:1") == BETTER
    assert comparison.verdict("none", than="global:1") == WORSE
    assert comparison.verdict("global:1", than="global:1") == WITHIN_NOISE
    assert comparison.best.text == "global:2"
    assert comparison.as_good_as_the_best() == []
    assert comparison.wins("global:2", "global:1") == 5


@pytest.mark.parametrize(
    ("ours", "theirs", "verdict"),
    [
        ([1, 1, 1, 1, 1], [2, 2, 2, 2, 2], BETTER),
        ([3, 3, 3, 3, 3], [2, 2, 2, 2, 2], WORSE),
        ([1, 1, 1, 1, 3], [2, 2, 2, 2, 2], WITHIN_NOISE),
        ([1, 1, 1, 1, 2], [2, 2, 2, 2, 2], WITHIN_NOISE),
        ([1, 1, 1, 1], [2, 2, 2, 2], TOO_FEW),
        ([1, 1, 1, 1, math.inf], [math.inf] * 5, WITHIN_NOISE),
        ([1, 1, 1, 1, 9], [2, 2, 2, 2, math.inf], BETTER),
        ([1] * 9 + [3], [2] * 10, BETTER),
        ([1] * 8 + [3] * 2, [2] * 10, WITHIN_NOISE),
    ],
)
def test_a_verdict_needs_the_agreement_of_pairs(ours: list[float], theirs: list[float], verdict: str) -> None:
    assert paired_verdict(ours, theirs) == verdict


@pytest.mark.parametrize(("wins", "seeds", "expected"), [(5, 5, 2 / 32), (9, 10, 2 * 11 / 1024), (0, 5, 1.0)])
def test_the_chance_is_that_of_fair_coins(wins: int, seeds: int, expected: float) -> None:
    assert chance(wins, seeds) == pytest.approx(expected, rel=1e-12)


def test_a_run_that_diverged_is_worse_than_any_number_and_named() -> None:
    found = compared(none=[math.nan, math.inf, 3.0, math.nan, 2.0], ours=[1e9, 5.0, 2.0, 4.0, 1.0])
    assert found.verdict("ours") == BETTER
    assert found.median("none") == math.inf
    assert found.spread("none") == (2.0, 3.0)
    assert diverged_runs(found) == ["none: seed 0 at the end; seed 1 at the end; seed 3 at the end"]
    assert columns(found)["diverged"][0] == "3 of 5"


def test_the_highest_is_best_where_the_metric_says_so() -> None:
    runs = [tuple(Trained(seed, TrainingOutcome(value), 1.0) for seed in range(5)) for value in (0.5, 0.9, math.nan)]
    names = ("none", "ours", "broken")
    contenders = tuple(Contender(name, name, run) for name, run in zip(names, runs, strict=True))
    found = Comparison("made up", Metric("accuracy", best="highest"), contenders, {})
    assert [found.verdict(name) for name in names] == [WITHIN_NOISE, BETTER, WORSE]
    assert found.best.text == "ours"
    assert found.median("ours") == 0.9
    assert found.median("broken") == math.inf


def test_a_document_is_read_back_as_the_same_comparison(comparison: Comparison) -> None:
    text = json.dumps(comparison.to_json(), allow_nan=False)
    again = Comparison.from_json(json.loads(text))
    assert again.to_json() == json.loads(text)
    assert again["global:1"].metrics == comparison["global:1"].metrics
    assert again.seeds == [0, 1, 2, 3, 4]
    assert {"gradclip", "python", "torch"} <= set(again.versions)


def test_another_document_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected the schema 'gradclip\.compare/1'"):
        Comparison.from_json({"schema": "gradclip.demo/1"})


def test_the_table_has_a_row_for_each_rule_and_fits_a_terminal(comparison: Comparison) -> None:
    output = io.StringIO()
    Console(file=output, width=80).print(*tables(comparison))
    lines = output.getvalue().splitlines()
    assert "distance, lowest is best" in lines[0]
    assert "against none" in output.getvalue()
    row, beside = [line for line in lines if line.strip().startswith("global:1")]
    assert row.split()[:5] == ["global:1", "11.8", "9.8", "to", "13.8"]
    assert row.rstrip().endswith("better")
    # Of the seed 2 without clipping: 12, 12 - 172.8 = -160.8, -160.8 + 415773 = 415613; less the 11.8 of global:1.
    assert "difference from none, seed by seed; chances are corrected for 2 rules" in output.getvalue()
    assert beside.split() == ["global:1", *["-4.2e+05", "-1.8e+06", "to", "-7.3e+04", "5", "of", "5", "0.062", "0.12"]]
    assert all(len(line) <= 80 for line in lines)


def test_what_is_shown_beside_a_verdict_stands_in_the_tables_and_fits_a_hundred_columns() -> None:
    none = [2.0, 2.1, 2.2, 2.3, 2.4, 2.5, 2.6]
    near, far = [value - 0.01 for value in none], [*none[:6], math.nan]
    names = {"none": none, "agc:0.01,exclude=head*": near, "stablespam": far, "normalizedgradient": none}
    found = compared(Metric("bits", margin=0.02), **names)
    assert columns(found)["against none"] == [
        *("", "better by less than the margin, also corrected", "within noise", "equal")
    ]
    assert differences(found) == {
        "rule": ["agc:0.01,exclude=head*", "stablespam", "normalizedgradient"],
        "difference": ["-0.01", "0", "0"],
        "98.4 % interval": ["-0.01 to -0.01", "0 to +inf", "0 to 0"],
        "wins": ["7 of 7", "0 of 7", "0 of 7"],
        "chance": ["0.016", "1", "1"],
        "corrected": ["0.047", "1", "1"],
        "within 0.02": ["yes", "no", "yes"],
    }
    output = io.StringIO()
    Console(file=output, width=100).print(*tables(found))
    assert all(len(line) <= 100 for line in output.getvalue().splitlines())
    assert "…" not in output.getvalue()
    assert all(cell in output.getvalue() for cell in ("-0.01 to -0.01", "0 to +inf", "within 0.02", "diverged"))


def test_shares_stand_in_percent() -> None:
    found = compared(Metric("perplexity", margin=0.02, relative=True), none=[100.0, 90.0], ours=[101.0, 88.0])
    beside = differences(found)
    assert (beside["difference, %"], beside["within 2 %"]) == (["-0.636"], ["no"])
    assert beside["50 % interval"] == ["-2.273 to +1"]
    assert "corrected" not in beside  # of one rule nothing is corrected


def test_one_rule_has_nothing_beside_it_and_one_seed_no_interval() -> None:
    assert len(tables(compared(none=[1.0, 2.0]))) == 1
    assert "0 % interval" not in differences(compared(none=[1.0], ours=[2.0]))


def test_the_picture_shows_every_run_and_the_runs_without_a_number(tmp_path: Path) -> None:
    found = compared(none=[math.nan, 1.0, 3.0], ours=[1.0, 2.0, 400.0])
    axes, _ = draw(found).axes
    dots = [len(line.get_xdata()) for line in axes.lines if line.get_marker() == "o"]
    assert dots == [2, 3]
    assert sum(line.get_marker() == "X" for line in axes.lines) == 1
    assert axes.get_xscale() == "log"


def test_the_picture_is_a_small_png_with_curves_beside(comparison: Comparison, tmp_path: Path) -> None:
    curves, _, _ = draw(comparison).axes
    assert [list(line.get_xdata()) for line in curves.lines] == [[1.0, 2.0]] * 3
    data = save_picture(comparison, tmp_path / "jump.png").read_bytes()
    assert struct.unpack(">I", data[16:20]) == (1300,)
    assert len(data) < 120_000


def test_the_picture_shows_the_differences_and_the_margin_and_what_is_infinite() -> None:
    metrics = {"none": [2.0] * 5, "near": [2.1, 1.9, 2.1, 1.9, 2.0], "broken": [2.0, 2.0, 2.5, *[math.inf] * 2]}
    *_, axes = draw(compared(Metric(margin=0.5), **metrics)).axes
    (band,) = axes.patches
    assert (band.get_x(), band.get_width()) == (-0.5, 1.0)
    intervals = [list(line.get_xdata()) for line in axes.lines if len(line.get_xdata()) == 2][1:]
    assert intervals[0] == pytest.approx([-0.1, 0.1])
    assert intervals[1][0] == 0.0
    assert [line.get_marker() for line in axes.lines].count(">") == 1
    assert axes.get_xlim()[0] <= -0.1
    assert axes.get_xscale() == "linear"
    *_, far = draw(compared(none=[2.0] * 5, a=[2.1] * 5, b=[1.9] * 5, c=[1e5] * 5)).axes
    assert far.get_xscale() == "symlog"
    assert len(draw(compared(none=[2.0] * 5)).axes) == 1


def test_each_run_is_told_of_in_a_line_where_there_is_no_terminal() -> None:
    output = io.StringIO()
    with ComparisonProgress(Console(file=output, width=80), ["none"], 2) as bars:
        compare(descend, ["none"], 2, on_run=bars.ended)
    assert [line.split(" | ")[:2] for line in output.getvalue().splitlines()] == [
        ["  none", "seed 0"],
        ["  none", "seed 1"],
    ]


def interrupted_at(call: int):  # type: ignore[no-untyped-def]
    """A training that somebody interrupts when it is called for the time `call`."""
    calls = []

    def train(rule, seed):  # type: ignore[no-untyped-def]
        calls.append(seed)
        if len(calls) == call:
            raise KeyboardInterrupt
        return descend(rule, seed)

    return train


def test_who_interrupts_a_comparison_has_the_seeds_that_every_rule_trained_on() -> None:
    with pytest.raises(ComparisonStopped) as stopped:
        compare(interrupted_at(6), ["none", "global:1"], 5)
    assert stopped.value.args == (signal.SIGINT,)
    assert stopped.value.found.seeds == [0, 1]
    assert stopped.value.found["none"].metrics == compare(descend, ["none"], 2)["none"].metrics
    with pytest.raises(KeyboardInterrupt) as early:
        compare(interrupted_at(2), ["none", "global:1"], 5)
    assert not isinstance(early.value, ComparisonStopped)


def test_rules_may_be_named_and_be_rules() -> None:
    by_name = {"a": "norm:1", "b": ClipGradByGlobalNorm(2.0)}
    found = compare(lambda rule, seed: TrainingOutcome(1.0), by_name, [7])
    assert [(one.text, one.sentence) for one in found.contenders] == [
        ("a", "each tensor: an L2 norm above 1 is rescaled to it"),
        ("b", "all tensors together: an L2 norm above 2 is rescaled to it"),
    ]
    (one,) = compare(lambda rule, seed: TrainingOutcome(1.0), [ClipGradByGlobalNorm(2.0)], 1).contenders
    assert one.text == one.sentence


@pytest.mark.parametrize(
    ("rules", "seeds", "kind", "words"),
    [
        ([], 5, ValueError, "different rules"),
        (["none", "none"], 5, ValueError, "different rules"),
        (["none"], 0, ValueError, "different seeds"),
        (["none"], [1, 1], ValueError, "different seeds"),
        (["none"], [1, 1.5], TypeError, "seeds are a number of them, or whole numbers, got"),
        (["none"], "12", TypeError, "whole numbers, got '12'"),
        (["none"], 2.5, TypeError, "whole numbers, got 2.5"),
        (["none"], True, TypeError, "whole numbers, got True"),
        ("none", 5, TypeError, "write a list"),
        (["nonne"], 5, ValueError, "did you mean 'none'"),
        ([3.0], 5, TypeError, "expected a clipping rule"),
    ],
)
def test_a_comparison_of_nothing_or_twice_the_same_is_refused(rules, seeds, kind, words) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(kind, match=words):
        compare(descend, rules, seeds)


def test_a_training_function_that_returns_a_number_is_told_what_to_write() -> None:
    with pytest.raises(TypeError, match=r"write TrainingOutcome\(metric=\.\.\.\)"):
        compare(lambda rule, seed: 2.5, ["none"])  # type: ignore[arg-type,return-value]


@pytest.mark.parametrize("as_number", [np.float32, torch.tensor, np.array], ids=["float32", "tensor", "array"])
def test_numbers_of_any_kind_are_kept_as_numbers(as_number: Any, tmp_path: Path) -> None:
    def train(rule: AnyRule, seed: int) -> TrainingOutcome:
        number = as_number(0.5)
        return TrainingOutcome(number, training=number, clipped=number, curve=((number, number),))

    path = tmp_path / "runs.jsonl"
    compare(train, ["none"], np.arange(2), keep=path)
    again = compare(refusing, ["none"], np.arange(3)[:2], keep=path)
    assert again["none"].runs[1].outcome == TrainingOutcome(0.5, training=0.5, clipped=0.5, curve=((0.5, 0.5),))
    assert again.seeds == [0, 1]


def refusing(rule: AnyRule, seed: int) -> TrainingOutcome:
    raise AssertionError("trained again")


@pytest.mark.parametrize(
    ("given", "kind", "words"),
    [
        ({"metric": "low"}, TypeError, "metric is one number, got 'low'"),
        ({"metric": None}, TypeError, "metric is one number"),
        ({"metric": torch.zeros(2)}, TypeError, "metric is one number"),
        ({"metric": 1.0, "training": [1.0]}, TypeError, "training is one number"),
        ({"metric": 1.0, "clipped": math.nan}, ValueError, "clipped is a share of the steps, from 0 to 1 or None"),
        ({"metric": 1.0, "clipped": 12}, ValueError, "clipped is a share of the steps"),
    ],
)
def test_an_outcome_without_numbers_is_refused_where_it_is_made(given: Any, kind: Any, words: str) -> None:
    with pytest.raises(kind, match=words):
        TrainingOutcome(**given)


def test_what_cannot_be_kept_is_said_before_anything_is_trained(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"runs\.jsonl cannot be written, because there is no folder .*none"):
        compare(refusing, ["none"], keep=tmp_path / "none" / "runs.jsonl")
    with pytest.raises(ValueError, match="processes are a whole number from 1, got 0"):
        compare(refusing, ["none"], processes=0)


@pytest.mark.parametrize("best", ["min", "low", "Lowest", None])
def test_which_end_is_best_is_said_by_one_of_two_words(best: Any) -> None:
    with pytest.raises(ValueError, match="best is one of 'lowest', 'highest', got"):
        Metric("loss", best)


def test_a_rule_that_was_not_compared_is_named(comparison: Comparison) -> None:
    assert "zclip" not in comparison
    with pytest.raises(KeyError, match="there are none, global:1, global:2"):
        comparison.verdict("zclip")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (2.4567, "2.457"),
        (0.0456789, "0.0457"),
        (12345.6, "1.2e+04"),
        (1e-5, "1e-05"),
        (math.inf, "diverged"),
        (7.0, "7"),
    ],
)
def test_figures_are_short(value: float, text: str) -> None:
    assert figure(value) == text


def test_a_spread_is_one_figure_where_both_ends_read_alike() -> None:
    assert [between(1.0, 1.00001), between(1.0, 2.0), between(math.nan, math.nan)] == ["1", "1 to 2", ""]


def test_two_processes_find_the_same_as_one(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "from gradclip.experiments import TrainingOutcome, compare\n"
        "def train(rule, seed):\n"
        "    return TrainingOutcome(seed + len(repr(rule)))\n"
        "if __name__ == '__main__':\n"
        "    one, two = (compare(train, ['none', 'global:1'], 3, processes=n) for n in (1, 2))\n"
        "    print([c.metrics for c in one.contenders] == [c.metrics for c in two.contenders])\n"
    )
    done = subprocess.run(
        [sys.executable, "own.py"], cwd=tmp_path, env=WITH_SOURCE, capture_output=True, text=True, check=False
    )
    assert done.stdout == "True\n", done.stderr


def test_importing_the_experiments_imports_nothing_heavy() -> None:
    code = "import sys, gradclip.experiments; print({'torch', 'numpy', 'matplotlib', 'rich'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], env=WITH_SOURCE, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
