"""`gradclip suggest train.py`: a real script, trained again and again, for which a threshold is known to be good."""

import json
import math
import shutil
from pathlib import Path
from random import Random

import pytest

from effort import only_long
from gradclip.advice.judging import Judged
from gradclip.advice.trainings import AS_IT_IS, Training, TrialsResult, threshold_by_trial
from gradclip.cli import main
from gradclip.telemetry import jsonl, read_run
from report.example_runs import noise, run_of, with_losses
from watching import python

SCRIPT = """
import math
import torch

torch.manual_seed(0)
torch.set_num_threads(1)
weight = torch.nn.Parameter(torch.tensor([3.0]))
optimizer = torch.optim.SGD([weight], lr=1.0)
for step in range(60):
    optimizer.zero_grad()
    loss = (weight**4).sum()
    loss.backward()
    optimizer.step()
"""
"""Descent on w^4 from 3 with a step size of 1: it flies off unless the gradient is cut. In steps of at most t it comes
down to the region where 4 w^3 < t, so a t near 0.1 is slow, one above 6 jumps over the minimum and comes back."""


def suggested(folder: Path, *arguments: str, script: str = SCRIPT, cold: bool = False):
    (folder / "script.py").write_text(script, encoding="utf-8")
    return python("-m", "gradclip", "suggest", "--out", "runs", *arguments, "script.py", folder=folder, cold=cold)


def test_a_disk_that_is_full_is_said(tmp_path: Path, monkeypatch) -> None:
    """The script may end because what it prints cannot be kept, and says so nowhere."""
    script = tmp_path / "script.py"
    script.write_text("raise SystemExit(1)", encoding="utf-8")
    full = shutil.disk_usage(tmp_path)._replace(free=0)
    monkeypatch.setattr("gradclip.advice.trainings.shutil.disk_usage", lambda folder: full)
    with pytest.raises(OSError, match=r"No space left on device: .*runs"):
        threshold_by_trial([str(script)], tmp_path / "runs")
    monkeypatch.setattr("gradclip.advice.trainings.shutil.disk_usage", lambda folder: full._replace(free=1))
    with pytest.raises(ValueError, match="the script made no optimizer step"):
        threshold_by_trial([str(script)], tmp_path / "more")


def test_the_threshold_that_trains_best_is_proposed(tmp_path: Path) -> None:
    answer = suggested(tmp_path, "--json")
    assert answer.returncode == 0, answer.stderr
    found = json.loads(answer.stdout)
    as_it_is, *others = found["trainings"]
    assert as_it_is["rule"] is as_it_is["loss"] is None  # it flies off
    assert found["expression"] == f"ClipGradByGlobalNorm({found['rule'].removeprefix('global:')})"
    best = min(others, key=lambda one: math.inf if one["loss"] is None else one["loss"])
    assert found["rule"] == best["rule"]
    assert best["loss"] < 1e-2
    assert best["steps"] == 60
    run = read_run(tmp_path / best["run"])
    assert {event.threshold for event in run} == {float(best["rule"].removeprefix("global:"))}
    assert (tmp_path / "runs" / AS_IT_IS).is_dir()


def test_it_says_what_it_tries_and_what_to_paste(tmp_path: Path) -> None:
    answer = suggested(tmp_path, "--trials", "3")
    assert answer.stdout.startswith("ClipGradByGlobalNorm(")
    assert "gradclip.attach(optimizer, gradclip.ClipGradByGlobalNorm(" in answer.stdout
    assert "gradclip report runs/as-it-is runs/global-" in " ".join(answer.stdout.split())
    first, *others = answer.stderr.splitlines()
    assert first.startswith("as it is            loss inf")
    assert len(others) == 3
    assert all(line.startswith("global:") and "60 steps" in line for line in others)
    assert [" left)" in line for line in answer.stderr.splitlines()] == [True, True, True, False]


INTERRUPTED = """
import os, pathlib, signal, time
runs = pathlib.Path("times")
runs.write_text(runs.read_text() + "." if runs.exists() else ".")
if len(runs.read_text()) == 4:
    os.kill(os.getppid(), signal.SIGINT)
    time.sleep(60)
"""
"""Put before a script: in its fourth training somebody interrupts the command."""


@only_long
def test_who_interrupts_it_has_what_the_trainings_have_shown_that_had_ended(tmp_path: Path) -> None:
    answer = suggested(tmp_path, "--json", script=INTERRUPTED + SCRIPT, cold=True)
    assert (answer.returncode, answer.stderr.splitlines()[-1]) == (130, "gradclip: interrupted")
    found = json.loads(answer.stdout)
    assert (found["interrupted"], len(found["trainings"])) == (True, 3)
    assert found["rule"] in [training["rule"] for training in found["trainings"]]
    assert all((tmp_path / training["run"] / "events.jsonl").is_file() for training in found["trainings"])


@pytest.fixture
def trained(monkeypatch):
    """Trainings that are not run: they lose less under a higher threshold; somebody interrupts number `stopped`."""

    def set_up(stopped):
        numbers = iter(range(1, 99))

        def train_once(plan, threshold, seed=None):
            if next(numbers) == stopped:
                raise KeyboardInterrupt
            path = plan.folder / f"{threshold}-{seed}"
            losses = [4.0] + [1.0 / (threshold or 0.01) + 0.001 * (step % 3) for step in range(60)]
            sink = jsonl(path)
            for event in with_losses(run_of(noise(61), threshold or 1.0), losses):
                sink(event)
            sink.close()
            judged = plan.judge.of(read_run(path), path, path, broke=False, before=None)
            return Training(threshold, path, 61, losses[-1], 0, tuple(losses[-6:]), 4.0, judged, seed)

        monkeypatch.setattr("gradclip.advice.trainings.train_once", train_once)

    return set_up


@pytest.mark.parametrize("as_json", [False, True])
def test_an_interrupted_trial_says_what_is_known_and_exits_with_130(tmp_path, trained, monkeypatch, capsys, as_json):
    (tmp_path / "script.py").write_text('"--seed"', encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    trained(stopped=6)  # the second seed of the second threshold
    assert main(["suggest", *(["--json"] if as_json else []), "--out", "runs", "script.py"]) == 130
    told, progress = capsys.readouterr()
    assert progress.splitlines()[-1] == "gradclip: interrupted"
    assert len(progress.splitlines()) == 6
    if as_json:
        found = json.loads(told)
        assert (found["interrupted"], len(found["trainings"])) == (True, 4)
        assert found["rule"] == found["trainings"][2]["rule"]
    else:
        assert told.startswith("interrupted after 4 trainings, which have shown so far:\nClipGradByGlobalNorm(")


def test_who_interrupts_the_first_training_has_nothing(tmp_path, trained, monkeypatch, capsys) -> None:
    (tmp_path / "script.py").write_text("", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    trained(stopped=1)
    assert main(["suggest", "--out", "runs", "script.py"]) == 130
    assert capsys.readouterr() == ("", "gradclip: interrupted\n")


def test_what_trains_well_is_left_as_it_is(tmp_path: Path) -> None:
    answer = suggested(tmp_path, "--trials", "2", script=SCRIPT.replace("lr=1.0", "lr=0.01"))
    assert answer.returncode == 0
    assert answer.stdout.startswith("leave it as it is")


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (
            "raise SystemExit(3)",
            "the script made no optimizer step (its exit code: 3); what it printed: runs/as-it-is.log",
        ),
        (SCRIPT.replace("loss.backward()", "weight.grad = torch.ones(1)"), "no loss was seen"),
        (SCRIPT.replace("(weight**4)", "(0.0 * weight)"), "no step of the script has a gradient whose norm is"),
        (SCRIPT.replace("manual_seed(0)", "seed()").replace("tensor([3.0])", "rand(1)"), "two trainings do not begin"),
        ("import os; os.mkdir('once')" + SCRIPT, "the script, which ran as it is, ends with 1 before its first step"),
    ],
)
def test_a_script_that_shows_nothing_gets_one_line(script: str, said: str, tmp_path: Path) -> None:
    answer = suggested(tmp_path, script=script)
    assert answer.returncode == 2
    assert f"gradclip suggest: {said}" in answer.stderr.splitlines()[-1]
    assert answer.stderr.count("\n") <= 3


def test_where_no_training_ends_well_the_exit_code_is_1(tmp_path: Path) -> None:
    script = SCRIPT.replace(".sum()", ".sum() + (math.nan if step > 50 else 0.0)")
    answer = suggested(tmp_path, "--trials", "1", script=script)
    assert answer.returncode == 1
    assert answer.stdout.startswith("no proposal")


def test_what_the_script_prints_is_kept_beside_its_run(tmp_path: Path) -> None:
    answer = suggested(tmp_path, "--trials", "1", script=SCRIPT + "print('done', loss.item())\n")
    assert "done" not in answer.stdout + answer.stderr
    logs = sorted(path.name for path in (tmp_path / "runs").glob("*.log"))
    assert len(logs) == 2
    assert "as-it-is.log" in logs
    assert all((tmp_path / "runs" / name).read_text(encoding="utf-8").startswith("done") for name in logs)


def training(threshold, loss, end=()):
    end = tuple(end) or (loss,)
    return Training(threshold, Path("x"), 9, loss, 0, end, judged=Judged(end, loss, loss))


def test_of_equal_losses_the_script_as_it_is_counts_as_the_best():
    found = TrialsResult((training(None, 1.0), training(3.0, 1.0)))
    assert found.best is found.as_it_is
    assert found.leave
    assert found.expression is None
    assert TrialsResult((training(None, math.inf), training(3.0, 1.0))).expression == "ClipGradByGlobalNorm(3)"


def test_the_threshold_that_the_script_has_is_no_proposal(tmp_path):
    """The same training once more differs by rounding, which is no gain."""
    trainings = (training(None, 1.0 + 1e-7), training(0.3, 2.0), training(1.0, 1.0))
    assert not TrialsResult(trainings).leave
    found = TrialsResult(trainings, own=1.0)
    assert found.leave
    assert found.to_dict()["rule"] is None
    clips = SCRIPT.replace(
        "    optimizer.step()", "    torch.nn.utils.clip_grad_norm_([weight], 1.0)\n    optimizer.step()"
    )
    answer = suggested(tmp_path, "--json", "--trials", "1", script=clips)
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout)["leave"]


@pytest.mark.parametrize(("gain", "leave"), [(0.01, True), (0.2, False)])
def test_a_gain_within_the_noise_of_the_steps_is_none(gain: float, leave: bool):
    """The differences have a deviation of 0.1 and 20 steps: their mean one of 0.02, and 0.2 is ten of these."""
    random = Random(0)
    hard = [random.gauss(5.0, 2.0) for _ in range(20)]  # the same batches in both, which cancel
    better = [one - gain + random.gauss(0.0, 0.1) for one in hard]
    found = TrialsResult((training(None, 5.0, hard), training(3.0, 5.0 - gain, better)))
    assert found.leave == leave
    assert found.to_dict()["leave"] == leave
    assert (found.to_dict()["rule"] is None) == leave


def test_where_every_training_broke_nothing_is_proposed():
    found = TrialsResult((training(None, math.inf), training(3.0, math.inf)))
    assert found.broken
    assert found.expression is None


def test_a_best_that_is_the_last_of_all_is_said_to_be():
    trainings = training(None, 5.0), training(1.0, 3.0), training(3.0, 2.0), training(10.0, 4.0)
    assert TrialsResult(trainings).at_edge == ""
    assert TrialsResult(trainings[:-1]).at_edge == "highest"
    assert TrialsResult((training(None, 5.0), *trainings[2:])).at_edge == "lowest"
    assert TrialsResult((training(None, 1.0), *trainings[1:])).at_edge == ""
