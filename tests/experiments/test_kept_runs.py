"""A comparison that is kept as it goes: killed and resumed it is the same, and what does not fit is refused."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import gradclip
from gradclip.cli import main
from gradclip.experiments import Metric, TrainingOutcome, compare, kept_runs
from gradclip.experiments.showing import comparison_report
from gradclip.experiments.tasks import bias
from gradclip.experiments.tasks.task import task_called
from gradclip.rules.rule import AnyRule

WITH_SOURCE = {**os.environ, "PYTHONPATH": str(Path(gradclip.__file__).parents[1])}
OWN = """
import json, math, os, signal, sys, time
from gradclip.experiments import Metric, TrainingOutcome, compare

def train(rule, seed):
    if seed == 3 and "rescaled" in repr(rule) and sys.argv[1] == "killed":
        while open("kept.jsonl").read().count("\\n") < 7:
            time.sleep(0.01)
        open("worker", "w").write(str(os.getpid()))
        os.kill(os.getppid() if sys.argv[2] == "2" else os.getpid(), signal.SIGKILL)
        time.sleep(600)
    with open("calls", "a") as calls:
        calls.write(f"{sys.argv[1]} {seed}\\n")
    value = seed / 3 if seed < 4 else math.inf
    return TrainingOutcome(value + len(repr(rule)), curve=((1.0, value),), diverged=None if seed < 4 else "step 2")

if __name__ == "__main__":
    keep = None if sys.argv[1] == "whole" else "kept.jsonl"
    found = compare(train, ["none", "global:1"], 6, metric=Metric("x"), processes=int(sys.argv[2]), keep=keep).to_json()
    for rule in found["rules"]:
        for run in rule["runs"]:
            del run["seconds"]
    print(json.dumps(found))
"""


def outcome(rule: AnyRule, seed: int) -> TrainingOutcome:
    return TrainingOutcome(seed / 3 + len(repr(rule)))


def refuse(rule: AnyRule, seed: int) -> TrainingOutcome:
    raise AssertionError("nothing is to be trained")


def ended(process: int, patience: float = 60.0) -> bool:
    """Whether a process of nobody's has ended, or does so soon."""
    until, status = time.monotonic() + patience, Path(f"/proc/{process}/stat")
    while time.monotonic() < until:
        if not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("processes", ["1", "2"])
def test_killed_in_the_middle_and_resumed_it_is_the_same_comparison(tmp_path: Path, processes: str) -> None:
    (tmp_path / "own.py").write_text(OWN)

    def run(how: str, processes: str = processes) -> subprocess.CompletedProcess[str]:
        call = [sys.executable, "own.py", how, processes]
        with open(tmp_path / "told", "w+") as told:  # a file, which nobody waits for who outlives the call
            done = subprocess.run(call, cwd=tmp_path, env=WITH_SOURCE, check=False, timeout=120, stdout=told)
            told.seek(0)
            return subprocess.CompletedProcess(call, done.returncode, told.read())

    assert run("killed").returncode == -signal.SIGKILL
    kept = len((tmp_path / "kept.jsonl").read_text().splitlines()) - 1
    assert kept >= 6
    assert ended(int((tmp_path / "worker").read_text()))
    resumed = run("resumed")
    # Another worker of the one that was killed may have gone on for a moment.
    calls = [call.split()[0] for call in (tmp_path / "calls").read_text().splitlines()]
    assert calls.count("resumed") == 12 - kept
    assert json.loads(resumed.stdout) == json.loads(run("whole", "1").stdout)


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """A file with the runs of two rules on the seeds 0 and 1."""
    path = tmp_path / "kept.jsonl"
    compare(outcome, ["none", "global:1"], 2, metric=Metric("x"), title="own", keep=path)
    return path


def again(path: Path, rules: Any = ("none", "global:1"), train: Any = refuse, **named: Any) -> Any:
    return compare(train, rules, **{"seeds": 2, "metric": Metric("x"), "title": "own", "keep": path, **named})


def test_each_run_is_on_the_disk_before_anybody_is_told_of_it(tmp_path: Path) -> None:
    path, seen = tmp_path / "kept.jsonl", []
    compare(outcome, ["none"], 3, keep=path, on_run=lambda *_: seen.append(path.read_text().count("\n")))
    assert seen == [2, 3, 4]


def test_what_is_kept_is_not_trained_again_and_more_is_trained_in_addition(kept: Path) -> None:
    assert again(kept)["global:1"].metrics == compare(outcome, ["global:1"], 2)["global:1"].metrics
    calls: list[int] = []

    def train(rule: AnyRule, seed: int) -> TrainingOutcome:
        calls.append(seed)
        return outcome(rule, seed)

    found = again(kept, ["global:2", "none"], train, seeds=[1, 2])
    assert (found.seeds, calls) == ([1, 2], [1, 2, 2])
    assert found["none"].metrics == compare(outcome, ["none"], [1, 2])["none"].metrics
    again(kept, ["none", "global:1", "global:2"], seeds=[1])


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ({"title": "else"}, "of another training: its title is 'own', here 'else'; give another place"),
        ({"metric": Metric("y")}, "of another training: its metric is .*'x'.* here .*'y'"),
        ({"rules": {"none": "global:3"}}, "runs of another rule 'none': there .* here .*above 3"),
    ],
)
def test_what_differs_is_refused_and_named(kept: Path, named: dict[str, Any], words: str) -> None:
    before = kept.read_bytes()
    with pytest.raises(ValueError, match=words):
        again(kept, **named)
    assert kept.read_bytes() == before


def test_another_version_is_refused_and_named(kept: Path) -> None:
    head, rest = kept.read_text().split("\n", 1)
    old = json.loads(head)
    old["versions"]["python"] = "3.1"
    kept.write_text(f"{json.dumps(old)}\n{rest}")
    with pytest.raises(ValueError, match=r"of other versions: python 3\.1 there, 3\.\S+ here; go on with those of"):
        again(kept)


def test_a_line_without_an_end_is_not_there_yet(kept: Path) -> None:
    whole = kept.read_bytes()
    for missing in (1, 30, len(whole.splitlines()[-1])):
        kept.write_bytes(whole[:-missing])
        trained: list[int] = []

        def train(rule: AnyRule, seed: int, trained: list[int] = trained) -> TrainingOutcome:
            trained.append(seed)
            return outcome(rule, seed)

        again(kept, train=train)
        assert trained == [1]
        assert kept.read_text().count("\n") == 5
    kept.write_bytes(whole[:10])
    again(kept, train=outcome)
    again(kept)


@pytest.mark.parametrize(
    ("number", "line", "words"),
    [
        (2, b"\x80\x81", "line 3, it is no text; remove that line"),
        (3, b'{"rule": "none"}', "line 4, it is no run; remove that line"),
        (1, b"", "line 2, it is empty; remove that line"),
        (0, b'{"schema": "gradclip.compare/1"}', "line 1, it does not begin with the schema .*; remove it, and all"),
    ],
)
def test_a_damaged_line_is_refused_by_its_number(kept: Path, number: int, line: bytes, words: str) -> None:
    lines = kept.read_bytes().split(b"\n")
    lines[number] = line
    kept.write_bytes(b"\n".join(lines))
    with pytest.raises(ValueError, match=words):
        again(kept)


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`gradclip compare bias` on twenty steps, in this process; it gives the exit code."""
    monkeypatch.setattr(comparison_report, "PROCESSES", 1)
    short = replace(task_called("bias"), train=lambda rule, seed: bias.train(rule, seed, steps=20))
    monkeypatch.setattr(bias, "TASK", short)
    return lambda *more: main(["compare", "bias", "--out", str(tmp_path), *more])


def interrupted_at(call: int, monkeypatch: pytest.MonkeyPatch) -> None:
    train, calls = bias.TASK.train, iter(range(1, call + 1))

    def until(rule: AnyRule, seed: int) -> TrainingOutcome:
        if next(calls) == call:
            raise KeyboardInterrupt
        return train(rule, seed)

    monkeypatch.setattr(bias, "TASK", replace(bias.TASK, train=until))


def runs_in(path: Path) -> list[tuple[str, list[float]]]:
    found = json.loads(path.read_text())
    return [(rule["text"], [run["metric"] for run in rule["runs"]]) for rule in found["rules"]]


def test_the_command_goes_on_where_it_was_interrupted(
    tmp_path: Path, command: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rules = ("--rules", "none", "global:2")
    with monkeypatch.context() as patched:
        interrupted_at(6, patched)
        assert command(*rules) == 130
    assert (tmp_path / "bias.runs.jsonl").read_text().count("\n") == 6
    capsys.readouterr()
    assert command(*rules) == 2
    assert "bias.runs.jsonl has runs of an earlier comparison: go on from them with --resume" in capsys.readouterr().err
    assert command(*rules, "--resume") == 0
    progress = capsys.readouterr().err.splitlines()
    assert progress[0] == "  trained before: 5 of 10 runs"
    assert len(progress) == 6
    assert not (tmp_path / "bias.runs.jsonl").exists()
    found = runs_in(tmp_path / "bias.json")
    assert command("--rules", "none") == 2
    assert "bias.json has runs of an earlier comparison: go on from them with --resume" in capsys.readouterr().err
    (tmp_path / "bias.json").unlink()
    assert command(*rules) == 0
    assert runs_in(tmp_path / "bias.json") == found


def test_more_seeds_and_rules_are_trained_in_addition_and_no_run_is_lost(
    tmp_path: Path, command: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("--rules", "none", "global:2", "--seeds", "1") == 0
    capsys.readouterr()
    assert command("--rules", "none", "global:5", "--seeds", "2", "--resume") == 0
    assert len(capsys.readouterr().err.splitlines()) == 1 + 3
    assert [text for text, _ in runs_in(tmp_path / "bias.json")] == ["none", "global:5"]
    assert "global:2" in (tmp_path / "bias.runs.jsonl").read_text()
    assert command("--rules", "none", "global:5", "global:2", "--seeds", "1", "--resume") == 0
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_document_that_does_not_fit_is_a_mistake(
    tmp_path: Path, command: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command("--rules", "none", "--seeds", "1") == 0
    path = tmp_path / "bias.json"
    whole = path.read_text()
    for text, words in (
        (whole[:200], "bias.json is damaged: it is no JSON"),
        (whole.replace('"place"', '"elsewhere"'), "bias.json is of another training: its metric is"),
        (whole.replace('"gradclip": "', '"gradclip": "9.'), "bias.json is of other versions: gradclip 9."),
        (whole.replace("never clipped", "otherwise"), "bias.json has runs of another rule 'none': "),
    ):
        path.write_text(text)
        capsys.readouterr()
        assert command("--rules", "none", "--seeds", "1", "--resume") == 2
        told, said = capsys.readouterr()
        assert (told, said.count("\n")) == ("", 1)
        assert words in said
        assert path.read_text() == text
        assert not (tmp_path / "bias.runs.jsonl").exists()
    path.write_text(whole)
    monkeypatch.setattr(kept_runs, "SCHEMA", "gradclip.compare-runs/2")
    assert command("--rules", "none", "--seeds", "1", "--resume") == 0


@pytest.mark.parametrize("text", ['{"my": "results"}', "notes", '{"schema": "gradclip.compare/1"}'])
def test_a_file_of_something_else_is_left_as_it_is(tmp_path: Path, text: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="is a file of something else, which nothing is written into"):
        again(path)
    assert path.read_text() == text


def test_the_beginning_of_a_first_line_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    for text in ("", '{"sch', '{"schema": "gradclip.compare-runs/1", "tit', '{"schema\0\0\0'):
        path.write_text(text)
        again(path, train=outcome)
        assert path.read_text().startswith('{"schema": "gradclip.compare-runs/1", "title"')


def test_a_rule_that_a_task_cannot_be_trained_by_is_a_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    def train(rule: Any, seed: int) -> Any:
        weight = torch.nn.Parameter(torch.zeros(1))
        optimizer = torch.optim.Adam([weight])
        gradclip.attach(optimizer, rule)
        weight.grad = torch.ones(1)
        optimizer.step()

    monkeypatch.setattr(bias, "TASK", replace(bias.TASK, train=train))
    assert command("--rules", "steplength:1", "--seeds", "1") == 2
    assert "bias cannot be trained by one of the rules: StepLength reads the learning" in capsys.readouterr().err


def test_a_margin_that_is_stated_later_is_refused_and_a_file_of_before_has_none(kept: Path) -> None:
    with pytest.raises(ValueError, match=r"its metric is .*'margin': None.* here .*'margin': 0\.02"):
        again(kept, metric=Metric("x", margin=0.02))
    head, rest = kept.read_text().split("\n", 1)
    old = json.loads(head)
    del old["metric"]["margin"], old["metric"]["relative"]
    kept.write_text(f"{json.dumps(old)}\n{rest}")
    assert again(kept).seeds == [0, 1]


def test_what_has_ended_so_far_is_read_whatever_made_it(kept: Path, tmp_path: Path) -> None:
    runs = kept_runs.KeptRuns(kept, "own", Metric("x"))
    found = runs.so_far(["global:1", "none"])
    assert found is not None
    assert found.to_json() == {**again(kept, ["global:1", "none"]).to_json(), "versions": dict(found.versions)}
    whole = kept.read_text()
    kept.write_text(whole.replace('"gradclip": "', '"gradclip": "9.').rpartition('{"rule": "global:1"')[0] + '{"ru')
    cut = kept.read_bytes()
    found = runs.so_far(["none", "global:1"])
    assert found is not None
    assert (found.seeds, found.versions["gradclip"][:2]) == ([0], "9.")
    assert kept.read_bytes() == cut  # reading cuts nothing off
    assert runs.so_far(["none", "zclip"]) is None
    assert kept_runs.KeptRuns(tmp_path / "none.jsonl", "own", Metric("x")).so_far(["none"]) is None
