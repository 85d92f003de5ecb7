"""Which number of a script is meant, and what `gradclip suggest train.py` does with it."""

import json
import math
from pathlib import Path
from random import Random

import pytest

from gradclip.advice.judging import BY_LOSS, Judge, Judged
from gradclip.advice.metric import ABSENT, ScriptMetric, names_in, names_of, printed
from gradclip.telemetry import Event
from gradclip.telemetry.runs import Run
from watching import python


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("val_loss 0.5\nval_loss 0.25\n", [0.5, 0.25]),
        ("epoch 1: val_loss: 0.5, acc 3", [0.5]),
        ("{'val_loss': 1e-3, 'x': 2}", [0.001]),
        ('{"val_loss": 7}', [7.0]),
        ("val_loss=nan val_loss=inf", [math.nan, math.inf]),
        ("Val_Loss = -.5e2", [-50.0]),
        ("my_val_loss 3, x.val_loss 4, val_loss_2 5", []),
        ("the val_loss of 3 epochs", []),
        ("val_loss1 99.0 val_loss5 98", []),
        ("val_loss = 1,852.28\nval_loss: 3,000", [1852.28, 3000.0]),
        ("val_loss: 0,0085\nval_loss 1.2.3", []),
        ("| val_loss | 0.5 |", [0.5]),
        ("val_loss: tensor(0.5)", [0.5]),
        ("epoch 3 val_loss 0.5\nINFO val_loss 0.25", [0.5]),
        ("best val_loss 0.5\nbest val_loss 0.25", [0.5, 0.25]),
    ],
)
def test_a_name_with_a_number_behind_it(text, found):
    assert printed(text, "val_loss") == pytest.approx(found, nan_ok=True)


def test_a_name_that_is_a_part_of_two_is_refused():
    with pytest.raises(ValueError, match="'train loss' and 'val loss': give the whole name"):
        printed("train loss 0.5 val loss 0.7\ntrain loss 0.4 val loss 0.6", "loss")
    assert printed("train loss 0.5 val loss 0.7", "val loss") == [0.7]


def test_colours_are_no_part_of_a_number(tmp_path):
    (tmp_path / "x.log").write_text("val_loss \x1b[32m0.5\x1b[0m", encoding="utf-8")
    assert ScriptMetric.of("val_loss").values(tmp_path, tmp_path / "x.log") == [0.5]


def test_an_expression_with_a_group():
    text = "return over 10 episodes: 21.5 (std 3)\nreturn over 10 episodes: 30 (std 2)"
    assert printed(text, r"return over \d+ episodes: ([\d.]+)") == [21.5, 30.0]


@pytest.mark.parametrize(
    ("text", "said"),
    [("", "has a name"), ("(a", "no regular expression"), ("(a)(b)", "one group, which is the number, has 2")],
)
def test_what_is_no_name_is_refused(text, said):
    with pytest.raises(ValueError, match=said):
        ScriptMetric.of(text)


def test_a_name_that_is_no_expression_is_a_name():
    assert printed("loss[val 0.5", "loss[val") == [0.5]


TABLES = {
    "log.csv": ("step,val\n1,0.5\n2,\n3,0.25\n", "val", [0.5, 0.25]),
    "log.tsv": ("step\tval\n1\t0.5\n", "val", [0.5]),
    "list.json": ('[{"val": 1}, {"val": 2}, {"train": 3}]', "val", [1.0, 2.0]),
    "nested.json": ('{"eval": {"acc": [0.1, 0.9]}, "acc": 7}', "eval.acc", [0.1, 0.9]),
    "dotted.json": ('{"eval.acc": 3}', "eval.acc", [3.0]),
    "lines.jsonl": ('{"val": 1}\n\n{"val": true}\n{"val": 2.5}\n', "val", [1.0, 2.5]),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_name_in_a_table(name, tmp_path):
    text, column, found = TABLES[name]
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert ScriptMetric.of(f"{tmp_path / name}:{column}").values(tmp_path, tmp_path / "log") == found


def test_of_a_table_only_what_this_training_wrote_counts(tmp_path):
    """One that is added to has the rows of the trainings before; one that is as it was says nothing of this one."""
    table = tmp_path / "log.csv"
    metric = ScriptMetric.of(f"{table}:val")
    assert metric.before() == ABSENT
    table.write_text("val\n1\n2\n", encoding="utf-8")
    before = metric.before()
    assert metric.values(tmp_path, tmp_path / "log", before) == []
    table.write_text("val\n1\n2\n", encoding="utf-8")  # anew, with what it had: a seeded training does so
    assert metric.values(tmp_path, tmp_path / "log", before) == [1.0, 2.0]
    table.write_text("val\n1\n2\n3\n", encoding="utf-8")
    assert metric.values(tmp_path, tmp_path / "log", before) == [3.0]
    table.write_text("val\n5\n2\n", encoding="utf-8")
    assert metric.values(tmp_path, tmp_path / "log", before) == [5.0, 2.0]


def test_the_names_of_a_table_are_paths():
    rows = {"history": [{"val": 1.0}, {"val": 2.0, "note": "x"}], "best": {"val": "0.5"}}
    assert list(dict.fromkeys(names_of(rows))) == ["history.val", "best.val"]


def test_a_table_that_is_not_there_is_said(tmp_path):
    with pytest.raises(ValueError, match=r"log\.csv:val: the file cannot be read: .*No such file"):
        ScriptMetric.of(f"{tmp_path}/log.csv:val").values(tmp_path, tmp_path / "log")


def test_the_names_that_look_like_held_out_metrics_are_found(tmp_path):
    log = tmp_path / "x.log"
    log.write_text("epoch 1 loss 0.5 val_loss 0.6 Val acc: 71.0 %\nepoch 2 loss 0.4 val_loss 0.5\nreturn 3", "utf-8")
    assert names_in(tmp_path, log) == ["val_loss", "Val acc", "return"]
    (tmp_path / "metrics.jsonl").write_text('{"name": "eval/f1", "value": 0.5}\nnot JSON\n', encoding="utf-8")
    assert "eval/f1" in names_in(tmp_path, log)
    (tmp_path / "metrics.jsonl").write_text('{"name": "metric", "value": 0.5}\n', encoding="utf-8")
    assert names_in(tmp_path, log)[0] == "metric"  # whatever its name is, what is told is meant


def run_of(losses) -> Run:
    return Run([Event(step, "", "torch", 1.0, 1.0, 1.0, 1.0, False, loss=loss) for step, loss in enumerate(losses)])


def spread(middle: float, many: int = 100, seed: int = 0) -> list[float]:
    draw = Random(seed)
    return [middle * (1.0 + 0.1 * draw.random()) for _ in range(many)]


FALLING = [*spread(5.0), *spread(1.0, 900)]
UNCLEAR = {
    "of two optimizers": ([run_of(FALLING), run_of(spread(1.0, 1000, 7))], [FALLING[-100:]], (), "none measures"),
    "of a policy": ([run_of(FALLING)], [FALLING[-100:]], ("val_return",), "trained for a return"),
    "that never fell": ([run_of(spread(1.0, 1000))], [spread(1.2)], (), "fell under no threshold"),
    "of outliers": (
        [run_of(FALLING)],
        [[*spread(5.0, 90), *[900.0] * 10], [*spread(0.25, 90), *[980.0] * 10]],
        (),
        "a few large losses carry the mean",
    ),
}


@pytest.mark.parametrize("name", UNCLEAR)
def test_a_loss_that_is_no_measure_is_known(name):
    runs, ends, offered, said = UNCLEAR[name]
    assert said in BY_LOSS.unclear(runs, ends, offered)
    assert Judge(ScriptMetric("val")).unclear(runs, ends, offered) == ""


def test_a_loss_that_is_one_is_one():
    same = run_of(FALLING)
    assert BY_LOSS.unclear([same, run_of(FALLING)], [FALLING[-100:], spread(0.5), spread(0.9)], ("val_loss",)) == ""
    assert BY_LOSS.unclear([run_of([9.0, 5.0, 2.0])], [[2.0]], ()) == ""


def test_a_metric_is_the_mean_of_the_last_tenth_or_the_last_of_few(tmp_path):
    log = tmp_path / "x.log"
    log.write_text("\n".join(f"acc {number}" for number in range(40)), encoding="utf-8")
    judged = Judge(ScriptMetric("acc", maximize=True)).of(run_of([]), tmp_path, log, broke=False)
    assert (judged.value, judged.score, len(judged.ends)) == (37.5, -37.5, 4)
    log.write_text("acc 1\nacc 3\n", encoding="utf-8")
    assert Judge(ScriptMetric("acc")).of(run_of([]), tmp_path, log, broke=False).value == 3.0
    assert Judge(ScriptMetric("acc")).of(run_of([]), tmp_path, log, broke=True).score == math.inf
    log.write_text("acc nan\n", encoding="utf-8")
    assert Judge(ScriptMetric("acc", maximize=True)).of(run_of([]), tmp_path, log, broke=False).score == math.inf


def test_a_training_that_broke_beats_none():
    well, broken = Judged((1.0,), 1.0, 1.0), Judged((), math.inf, math.inf)
    assert well.beats(broken)
    assert not broken.beats(well)
    assert not broken.beats(broken)


SCRIPT = """
import argparse, math, sys
import gradclip, torch
options = argparse.ArgumentParser()
options.add_argument("--seed", type=int, default=0)
torch.manual_seed(options.parse_args().seed)
torch.set_num_threads(1)
model = torch.nn.Linear(4, 1)
truth = torch.tensor([[1.0, -2.0, 3.0, 0.5]])
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
held_out = torch.randn(64, 4)
for step in range(200):
    inputs = torch.randn(32, 4)
    targets = inputs @ truth.T
    {damage}
    optimizer.zero_grad()
    loss = torch.nn.functional.mse_loss(model(inputs), targets)
    loss.backward()
    optimizer.step()
    if step % 20 == 19:
        error = (model(held_out) - held_out @ truth.T).abs().median().item()
        {tell}
"""
OUTLIERS = "targets[torch.rand(32, 1) < 0.01] *= 300.0"
TELLING = {
    "printed": ("print('val_error', error)", "val_error"),
    "told": ("gradclip.metric(error, 'val_error')", "val_error"),
    "TensorBoard": (
        "import tensorboardX; tensorboardX.SummaryWriter('tb').add_scalar(tag='val/error', scalar_value=error)",
        "val/error",
    ),
    "a table": ("open('log.csv', 'w').write(f'step,error\\n{step},{error}\\n')", "log.csv:error"),
}


def suggested(folder: Path, *options: str, damage: str, tell: str):
    (folder / "script.py").write_text(SCRIPT.format(damage=damage, tell=tell), encoding="utf-8")
    return python("-m", "gradclip", "suggest", "--out", "runs", "--trials", "4", *options, "script.py", folder=folder)


@pytest.mark.parametrize("how", TELLING)
def test_a_threshold_is_judged_by_what_the_script_gives(how, tmp_path):
    tell, name = TELLING[how]
    answer = suggested(tmp_path, "--json", "--metric", name, "--seeds", "1", damage=OUTLIERS, tell=tell)
    assert answer.returncode == 0, answer.stderr
    found = json.loads(answer.stdout)
    as_it_is, *others = found["trainings"]
    best = min(others, key=lambda one: one["metric"])
    assert found["rule"] == best["rule"] is not None
    assert best["metric"] < as_it_is["metric"]
    assert found["judged_by"] == name


def test_outliers_carry_the_mean_of_the_loss_and_nothing_is_proposed_from_it(tmp_path):
    answer = suggested(tmp_path, "--seeds", "1", damage=OUTLIERS, tell="print('val_error', error)")
    words = " ".join(answer.stdout.split())
    assert answer.returncode == 1
    assert words.startswith("no proposal: a few large losses carry the mean")
    assert "which gives val_error: --metric NAME" in words


def test_a_script_with_a_seed_is_trained_with_two(tmp_path):
    options = "--metric", "val_error", "--json", "--trials", "1"
    found = json.loads(suggested(tmp_path, *options, damage=OUTLIERS, tell="print('val_error', error)").stdout)
    seeds = [training["seed"] for training in found["trainings"]]
    assert seeds == [None, 1] * 2
    assert len({training["metric"] for training in found["trainings"][:2]}) == 2


def test_what_the_script_does_not_give_is_named_beside_what_it_gives(tmp_path):
    answer = suggested(tmp_path, "--metric", "accuracy", damage="", tell="print('val_error', error)")
    assert answer.returncode == 2
    assert "the script gives no number called accuracy; it gives val_error" in answer.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--maximize"], "--maximize is about a metric"),
        (["--metric", "(a"], "no regular expression"),
        (["--seeds", "0"], "a whole number above 0"),
    ],
)
def test_options_that_make_no_sense_get_one_line(options, said, tmp_path):
    answer = suggested(tmp_path, *options, damage="", tell="pass")
    assert answer.returncode == 2
    assert said in answer.stderr


def test_a_script_without_a_seed_cannot_be_given_several(tmp_path):
    (tmp_path / "plain.py").write_text("import torch", encoding="utf-8")
    answer = python("-m", "gradclip", "suggest", "--seeds", "3", "plain.py", folder=tmp_path)
    assert answer.returncode == 2
    assert "the script has no option --seed" in answer.stderr
