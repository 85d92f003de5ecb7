"""What somebody may get wrong in a call: one line that says what to do, exit code 2, and never a traceback."""

from __future__ import annotations

import json
import os

import pytest

from gradclip.cli import main
from gradclip.telemetry import jsonl
from report.example_runs import noise, run_of

READERS = ("doctor", "report", "suggest", "export")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a script, a run, and what is none: empty, of a later version, no text, a folder, unreadable."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text("")
    for name in ("empty", "newer", "noise", "deep/events.jsonl", "broken"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "newer" / "events.jsonl").write_text(json.dumps({"schema": 99, "step": 0}) + "\n")
    (tmp_path / "noise" / "events.jsonl").write_bytes(bytes(range(128, 256)) + b"\n")
    os.symlink("/proc/self/mem", tmp_path / "broken" / "events.jsonl")  # a file of which no byte can be read
    sink = jsonl(tmp_path / "run")
    for event in run_of(noise(40)):
        sink(event)
    sink.close()
    return tmp_path


def line_of(capsys, *arguments):
    """The only line that a call is answered by."""
    try:
        code = main(arguments)
    except SystemExit as end:
        code = end.code
    told, said = capsys.readouterr()
    assert (code, told, said.count("\n")) == (2, "", 1), said
    return said


def form_of(command):
    return ["--json"] if command == "export" else []


@pytest.mark.parametrize("command", READERS)
@pytest.mark.parametrize(
    ("run", "said"),
    [
        ("empty", "empty is no run: a run is a folder with events.jsonl"),
        ("deep", "deep is no run: a run is a folder with events.jsonl"),
        ("newer", "newer/events.jsonl: an event has schema 99, and this gradclip reads up to 2: upgrade gradclip"),
        ("noise", "noise/events.jsonl has no event: line 1, it is no text"),
        ("broken", "broken cannot be read: Input/output error"),
    ],
)
def test_what_is_no_run_is_said(folder, capsys, command, run, said):
    assert line_of(capsys, command, run, *form_of(command)).startswith(f"gradclip {command}: {said}")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("reprot run", "there is no command 'reprot', did you mean report?"),
        ("--json doctor", "there is no option --json"),
        ("report missing", "missing is no run"),
        ("report run --acept x", "did you mean --accept?"),
        ("report run --accept nothing", "there is no such finding, there are "),
        ("report run --out empty", "--out empty: Is a directory; give a file that can be written"),
        ("report run --text --json", "--json: not allowed with argument --text"),
        ("doctor", "give a script to run, or a run to read: gradclip doctor train.py"),
        ("doctor missing.py", "there is no script missing.py"),
        ("doctor run --steps 3", "--steps is for a script; a run is read as it is"),
        ("doctor run other", "other is neither a script, a run nor a program"),
        ("watch", "give a script to run: gradclip watch train.py"),
        ("watch empty", "empty is neither a script, a run nor a program"),
        ("watch --out run train.py", "there is something already; give a folder that is not there"),
        ("watch --rule globl:1 train.py", "did you mean 'global'?"),
        ("watch --rule global:0 train.py", "clip_norm must be above 0"),
        ("watch --rule global:nan train.py", "a comparison with NaN never clips"),
        ("watch --steps 1.5 train.py", "expected a whole number above 0, got '1.5'"),
        ("suggest", "give a run to read, or a script to train: gradclip suggest RUN"),
        ("suggest --trials 0 train.py", "argument --trials: expected a whole number above 0, got '0'"),
        ("suggest --maximize train.py", "give its name with --metric"),
        ("suggest run --trials 3", "are for a script; a run is read as it is"),
        ("suggest --seeds 2 train.py", "the script has no option --seed, so there is one seed"),
        ("compare bias --rules zclip:z=x", "zclip:"),
        ("compare bias --resume", "--resume goes on from what is in a folder: give it with --out DIR"),
        ("export run", "one of the arguments --csv --parquet --json is required"),
        ("export run --csv nowhere/x.csv", "No such file or directory; give a file that can be written"),
        ("methods zlip", "did you mean ZClip?"),
        ("methods steplength", "'steplength' is no method of the literature, but a rule of its own"),
        ("completion", "are required: shell"),
    ],
)
def test_a_wrong_call_is_told_what_to_write(folder, capsys, arguments, said):
    assert said in line_of(capsys, *arguments.split())


def test_colours_are_off_in_a_pipe_and_by_no_color_and_on_by_force_color(folder, capsys, monkeypatch):
    def coloured(**named):
        for name in ("NO_COLOR", "FORCE_COLOR"):
            monkeypatch.delenv(name, raising=False)
        for name, value in named.items():
            monkeypatch.setenv(name, value)
        assert main(["report", "run", "--text"]) == 0
        return "\x1b[1;3" in capsys.readouterr().out

    assert not coloured()
    assert coloured(FORCE_COLOR="1")
    assert not coloured(FORCE_COLOR="1", NO_COLOR="1")
