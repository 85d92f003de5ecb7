"""`gradclip suggest`: what it prints, and its exit codes."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from advice.streams import drifting, lognormal, run_of, spiky
from gradclip.advice.suggestion import suggest
from gradclip.cli import main
from gradclip.telemetry import jsonl


@pytest.fixture
def recorded(tmp_path):
    """Records norms, and gives the folder."""

    def record(norms, threshold=math.inf):
        sink = jsonl(tmp_path / "run")
        for event in run_of(norms, threshold):
            sink(event)
        sink.close()
        return str(tmp_path / "run")

    return record


def test_a_proposal_is_printed_as_a_line_to_paste(recorded, capsys):
    norms = spiky(500)[0]
    assert main(["suggest", recorded(norms)]) == 0
    first, *rest = capsys.readouterr().out.splitlines()
    expression = suggest(run_of(norms)).expression
    assert first == expression
    assert f"gradclip.attach(optimizer, gradclip.{expression})" in rest[0]
    assert [line.split("  ")[1] for line in rest if line[2] != " "] == [
        "in PyTorch",
        "clip rate",
        "range",
        "why",
        "mind",
    ]
    assert max(map(len, rest)) <= 100


def test_a_rule_that_adapts_is_printed_where_norms_drift(recorded, capsys):
    assert main(["suggest", recorded(drifting(500, 5.0))]) == 0
    assert capsys.readouterr().out.startswith("QuantileClip(0.95, rate=0.05)\n")


def test_what_is_well_as_it_is_is_left(recorded, capsys):
    assert main(["suggest", recorded(lognormal(500), threshold=0.1)]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert out.startswith("leave it as it is")
    assert "hidden learning rate" in out


def test_too_little_data_is_exit_code_1(recorded, capsys):
    assert main(["suggest", recorded(lognormal(10))]) == 1
    assert "no proposal" in capsys.readouterr().out


def test_json_is_one_document(recorded, capsys):
    norms = lognormal(500)
    assert main(["suggest", recorded(norms), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"optimizer": "an optimizer", **suggest(run_of(norms)).to_dict()}


def test_each_optimizer_of_a_script_gets_a_suggestion_of_its_own(tmp_path, capsys):
    for folder, variable, level in (("run", "opt_g", 1.0), ("run/run-2", "opt_d", 50.0)):
        sink = jsonl(tmp_path / folder)
        sink.begin({"optimizer": "RMSprop", "variable": variable, "where": "gan.py:9"})
        for event in run_of(lognormal(500, level=level)):
            sink(event)
        sink.close()
    assert main(["suggest", str(tmp_path / "run")]) == 0
    first, second = capsys.readouterr().out.split("\n\n")
    leave = "leave it as it is if training goes well\notherwise ClipGradByGlobalNorm"
    assert first.startswith(f"RMSprop opt_g (gan.py:9), {tmp_path / 'run'}\n{leave}(1.")
    assert second.startswith(f"RMSprop opt_d (gan.py:9), {tmp_path / 'run' / 'run-2'}\n{leave}(8")
    assert main(["suggest", "--json", str(tmp_path / "run")]) == 0
    every = json.loads(capsys.readouterr().out)["optimizers"]
    assert [one["rule"].startswith("global:") for one in every] == [True, True]


def test_of_a_script_that_clips_in_a_wrong_way_nothing_is_proposed(recorded, capsys):
    folder = recorded(lognormal(500))
    flawed = {"step": 0, "calls": ["clip"], "flaws": [["micro-step", "train.py:9", ""]], "missing": []}
    (Path(folder) / "calls.jsonl").write_text(json.dumps(flawed) + "\n")
    assert main(["suggest", folder]) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert out.startswith("no proposal why The clipping has 1 mistake, which gradclip doctor names")
    assert main(["report", "--text", folder]) == 0
    assert "The clipping has 1 mistake, which gradclip doctor names" in " ".join(capsys.readouterr().out.split())


def test_no_run_is_a_mistake_in_the_call(tmp_path, capsys):
    assert main(["suggest", str(tmp_path / "nowhere")]) == 2
    assert "is neither a script, a run nor a program" in capsys.readouterr().err


def test_a_folder_without_events_is_a_mistake_in_the_call(tmp_path, capsys):
    assert main(["suggest", str(tmp_path)]) == 2
    assert "is no run" in capsys.readouterr().err


def test_options_may_stand_behind_a_run_and_a_second_run_may_not(recorded, capsys):
    run = recorded(lognormal(500))
    assert main(["suggest", "--json", run]) == main(["suggest", run, "--json"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == second
    assert main(["suggest", run, run]) == 2
    assert "one run at a time" in capsys.readouterr().err


def test_what_is_for_a_script_is_refused_beside_a_run(recorded, capsys):
    run = recorded(lognormal(500))
    assert main(["suggest", run, "--trials", "3"]) == 2
    assert "are for a script" in capsys.readouterr().err
