"""From runs that are written by hand to findings."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from gradclip.cli import main
from gradclip.doctor import Finding, diagnose
from gradclip.doctor.diagnosis import some_of
from gradclip.telemetry import Event, jsonl

CALL = "clip_grad_norm_(max_norm=1) at train.py:9"


def event(step: int, norm: float, threshold: float = 1.0, **facts) -> Event:
    coefficient = min(1.0, threshold / norm) if norm else 1.0
    return Event(step, CALL, "torch", norm, norm * coefficient, threshold, coefficient, coefficient < 1.0, **facts)


def written(folder: Path, events, calls=(), optimizer="SGD", **script) -> Path:
    """A run with these events and lines of `calls.jsonl`."""
    sink = jsonl(folder)
    sink.begin(
        {"parameters": {"weight": [2], "bias": [1]}, "optimizer": optimizer, "script": {"thresholds": [], **script}}
    )
    for one in events:
        sink(one)
    sink.close()
    lines = [json.dumps({"flaws": [], "missing": [], **line}) + "\n" for line in calls]
    (folder / "calls.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


def found(*arguments, **script) -> dict[str, Finding]:
    return {finding.problem: finding for finding in diagnose(written(*arguments, **script))}


def test_a_flaw_counts_as_long_as_its_line_holds(tmp_path: Path) -> None:
    flawed = {"calls": [CALL], "flaws": [["twice", "train.py:9", ""]]}
    lines = [
        {"step": 0, "calls": [CALL]},
        {"step": 10, **flawed},
        {"step": 20, "calls": [CALL]},
        {"step": 90, **flawed},
    ]
    finding = found(tmp_path / "run", [event(i, 0.5 + i % 2) for i in range(100)], lines)["twice"]
    assert (finding.where, finding.since, finding.steps, finding.of) == ("train.py:9", 10, 10 + 10, 100)


def test_a_flaw_of_few_steps_has_a_reason_there(tmp_path: Path) -> None:
    flawed = {"calls": [CALL], "flaws": [["micro-step", "train.py:9", ""]]}
    lines = [{"step": 0, "calls": [CALL]}, {"step": 81, **flawed}]
    assert found(tmp_path / "run", [event(i, 0.5 + i % 2) for i in range(100)], lines) == {}


def test_a_step_on_what_is_not_finite_is_one_that_was_not_skipped(tmp_path: Path) -> None:
    bad = {"nonfinite": 3, "offenders": ("weight",)}
    events = [event(0, 1.5), event(1, math.nan, **bad, skipped=True), event(2, math.nan, **bad), event(3, 1.5)]
    finding = found(tmp_path / "run", events)["non-finite"]
    assert (finding.since, finding.steps) == (2, 1)
    assert "(weight)" in finding.sentence


THRESHOLDS = [{"name": "max_norm", "value": 2.0, "where": "train.py"}]


def unclipped(norm: float) -> Event:
    return event(0, norm, math.inf)


def test_a_threshold_that_the_script_has_and_that_elements_exceeded_was_never_applied(tmp_path: Path) -> None:
    lines = [{"step": 0, "calls": [], "unclipped": []}, {"step": 3, "calls": [], "unclipped": ["max_norm"]}]
    finding = found(tmp_path / "run", [event(i, 9.0, math.inf) for i in range(5)], lines, thresholds=THRESHOLDS)[
        "never-clipped"
    ]
    assert (finding.since, finding.steps, finding.where) == (3, 2, "train.py")


def test_a_script_that_clips_elements_by_itself_is_left_in_peace(tmp_path: Path) -> None:
    lines = [{"step": 0, "calls": [], "unclipped": []}]
    assert found(tmp_path / "run", [unclipped(9.0)], lines, thresholds=THRESHOLDS) == {}


def test_who_clips_in_the_wrong_place_is_not_told_that_nothing_clips(tmp_path: Path) -> None:
    lines = [{"step": 0, "calls": [], "flaws": [["after-step", "train.py:9", ""]]}]
    assert set(found(tmp_path / "run", [unclipped(9.0)], lines, thresholds=THRESHOLDS)) == {"after-step"}


def test_an_optimizer_beside_one_that_is_clipped(tmp_path: Path) -> None:
    folder = written(tmp_path / "run", [event(0, 1.5)], [{"step": 0, "calls": [CALL]}])
    written(folder / "run-2", [unclipped(3.0)], [{"step": 0, "calls": []}], optimizer="Muon")
    (finding,) = diagnose(folder)
    assert finding.problem == "one-optimizer-of-several"
    assert "the Muon that holds weight, bias, one of 2 optimizers" in finding.sentence
    assert finding.sentence.endswith("of norms up to 3")
    assert finding.where == "train.py:9"


def test_an_optimizer_whose_norms_stay_below_the_threshold_needs_no_clipping(tmp_path: Path) -> None:
    folder = written(tmp_path / "run", [event(0, 1.5)], [{"step": 0, "calls": [CALL]}])
    written(folder / "run-2", [unclipped(0.9)], [{"step": 0, "calls": []}], optimizer="Adam")
    assert diagnose(folder) == []


@pytest.mark.parametrize("why", ["of one number", "later", "short-lived"])
def test_an_optimizer_that_is_another_matter(why: str, tmp_path: Path) -> None:
    folder = written(
        tmp_path / "run", [event(i, 1.5, time=float(i)) for i in range(10)], [{"step": 0, "calls": [CALL]}]
    )
    events = [replace(unclipped(3.0), step=i) for i in range(4 if why == "short-lived" else 10)]
    sink = jsonl(folder / "run-2")
    shapes = {"temperature": [1]} if why == "of one number" else {"weight": [2]}
    sink.begin({"parameters": shapes, "optimizer": "Adam", "script": {"thresholds": []}})
    for one in events:
        sink(replace(one, time=one.step + (100.0 if why == "later" else 0.0)))
    sink.close()
    (folder / "run-2" / "calls.jsonl").write_text('{"step": 0, "calls": [], "flaws": [], "missing": []}\n')
    assert diagnose(folder) == []


def test_two_optimizers_that_nothing_clips_are_nobodys_mistake(tmp_path: Path) -> None:
    folder = written(tmp_path / "run", [unclipped(3.0)], [{"step": 0, "calls": []}])
    written(folder / "run-2", [unclipped(3.0)], [{"step": 0, "calls": []}])
    assert diagnose(folder) == []


def test_a_run_of_telemetry_is_read_as_well(tmp_path: Path) -> None:
    sink = jsonl(tmp_path / "run")
    sink(event(0, math.nan, nonfinite=1, offenders=("w",)))
    assert [finding.problem for finding in diagnose(tmp_path / "run")] == ["non-finite"]


def test_a_torn_last_line_of_the_calls_is_left_out(tmp_path: Path) -> None:
    folder = written(tmp_path / "run", [event(0, 1.5)], [{"step": 0, "calls": [CALL]}])
    with open(folder / "calls.jsonl", "a", encoding="utf-8") as file:
        file.write('{"step": 1, "ca')
    assert diagnose(folder) == []


def test_names_are_listed_once_and_not_all_of_them() -> None:
    assert some_of(["a", "b", "a"]) == "a, b"
    assert some_of(list("abcde")) == "a, b, c and 2 more"
    assert some_of([]) == ""


def test_the_command_reads_a_run(tmp_path: Path, capsys) -> None:
    flawed = {"step": 0, "calls": [CALL], "flaws": [["twice", "train.py:9", ""]]}
    folder = written(tmp_path / "run", [event(i, 5.0) for i in range(40)], [flawed])
    assert main(["doctor", str(folder)]) == 1
    assert capsys.readouterr().out.startswith("train.py:9: clips gradients that were clipped already")
    assert main(["doctor", "--json", str(folder)]) == 1
    document = json.loads(capsys.readouterr().out)
    assert [finding["problem"] for finding in document["findings"]] == ["twice"]
    assert document["verdicts"][str(folder)]["kind"] == "mistaken"
    (tmp_path / "empty").mkdir()
    assert main(["doctor", str(tmp_path / "empty")]) == 2
    assert "is no run" in capsys.readouterr().err


FLAWED = {"step": 0, "calls": [CALL], "flaws": [["twice", "train.py:2", ""]]}


@pytest.fixture
def flawed(tmp_path: Path, monkeypatch) -> str:
    """A run whose script clips twice, in the folder where the command is called."""
    monkeypatch.chdir(tmp_path)
    return str(written(tmp_path / "run", [event(i, 0.5 + i % 2) for i in range(100)], [FLAWED]))


@pytest.mark.parametrize("way", ["--accept", "pyproject.toml", "the line", "the line above"])
def test_what_is_meant_as_it_is_is_shown_as_accepted(way: str, flawed: str, capsys) -> None:
    options = ["--accept", "twice"] if way == "--accept" else []
    if way == "pyproject.toml":
        Path("pyproject.toml").write_text('[tool.gradclip]\naccept = ["twice"]\n')
    elif way == "the line":
        Path("train.py").write_text("\nclip()  # gradclip: accept overflow, twice\n")
    elif way == "the line above":
        Path("train.py").write_text("# gradclip: accept twice\nclip()\n")
    assert main(["doctor", *options, flawed]) == 0
    out = capsys.readouterr().out
    assert "train.py:2: clips gradients that were clipped already" in out
    assert "meant as it is: twice is accepted" in out
    assert "Clipping acted on 50 of 100 steps" in out
    assert main(["doctor", "--json", *options, flawed]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [finding["accepted"] for finding in document["findings"]] == [True]
    assert document["verdicts"][flawed]["kind"] == "trims"
    assert main(["suggest", *options, flawed]) == 0
    assert main(["report", "--text", *options, flawed]) == 0
    assert "Clipping acted on 50" in capsys.readouterr().out.replace("\n", " ")
    if options:
        assert main(["suggest", flawed]) == 1


@pytest.mark.parametrize(
    "text", ["# gradclip: accept overflow\nclip()", "clip()\nclip()\n# gradclip: accept twice", ""]
)
def test_what_is_said_elsewhere_or_of_another_finding_accepts_nothing(text: str, flawed: str, capsys) -> None:
    Path("train.py").write_text(text)
    Path("pyproject.toml").write_text('[tool.other]\naccept = ["twice"]\n')
    assert main(["doctor", flawed]) == 1
    assert "or    if it is meant as it is: gradclip doctor --accept twice" in capsys.readouterr().out


def test_a_finding_that_there_is_not_cannot_be_accepted(flawed: str, capsys) -> None:
    for command in ("doctor", "suggest", "report"):
        assert main([command, "--accept", "twcie", flawed]) == 2
        assert "--accept twcie: there is no such finding, there are after-step, " in capsys.readouterr().err


def test_a_loss_that_is_meant_to_rise_can_be_accepted(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    folder = str(written(tmp_path / "run", [event(i, 0.5 + i % 2, loss=1.02**i) for i in range(300)]))
    assert main(["doctor", folder]) == 1
    assert "or    if the loss is meant to rise: gradclip doctor --accept diverged" in capsys.readouterr().out
    assert main(["doctor", "--accept", "diverged", folder]) == 0
    assert "or    if the loss is meant to rise: it is accepted" in capsys.readouterr().out


def test_steps_on_what_is_not_finite_can_be_accepted(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    bad = {"nonfinite": 3, "offenders": ("weight",)}
    events = [event(i, math.nan, **bad) if i == 9 else event(i, 1.0) for i in range(40)]
    folder = str(written(tmp_path / "run", events))
    assert main(["doctor", folder]) == 1
    assert capsys.readouterr().out.startswith("the script lets the optimizer step on gradients that are not finite")
    assert main(["doctor", "--accept", "non-finite", folder]) == 0


@pytest.mark.parametrize("settings", ["[tool.gradclip]\naccept = 3", "[tool", '[tool.gradclip]\naccept = [["twice"]]'])
@pytest.mark.parametrize("command", [["doctor"], ["suggest"], ["report", "--text"]], ids=" ".join)
def test_settings_that_cannot_be_read_are_a_mistake_in_the_call(command, settings: str, flawed: str, capsys) -> None:
    Path("pyproject.toml").write_text(settings)
    assert main([*command, flawed]) == 2
    assert capsys.readouterr().err.startswith(f"gradclip {command[0]}: pyproject.toml")


@pytest.mark.parametrize(("command", "code"), [("doctor", 1), ("suggest", 1), ("report --text", 0)])
def test_the_file_of_the_events_is_the_run_as_well(command: str, code: int, flawed: str, capsys) -> None:
    assert main([*command.split(), f"{flawed}/events.jsonl"]) == code
    by_file = capsys.readouterr().out
    assert main([*command.split(), flawed]) == code
    assert by_file == capsys.readouterr().out
