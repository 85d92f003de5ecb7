"""`gradclip suggest`: what it prints, and its exit codes."""

from __future__ import annotations

import json
import math

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
    assert json.loads(capsys.readouterr().out) == suggest(run_of(norms)).to_dict()


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
