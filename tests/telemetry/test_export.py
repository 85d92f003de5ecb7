"""`gradclip export`: the events of a run as a table or as a document."""

import csv
import json
import math
from dataclasses import replace

import pytest

from gradclip.cli import main
from gradclip.telemetry import Event, jsonl

EVENTS = [
    Event(0, "all, together", "cpu", 5.0, 1.0, 1.0, 0.2, True, time=1.5, tensors={"w": 3.0, "b": 4.0}),
    Event(1, "all, together", "cpu", math.nan, 0.0, math.inf, 1.0, False, True, 2, ("w", "b"), 2.5),
]


@pytest.fixture
def run(tmp_path):
    sink = jsonl(tmp_path / "run")
    for event in EVENTS:
        sink(event)
    sink.close()
    return str(tmp_path / "run")


def test_csv_has_a_line_for_each_step_and_a_column_for_each_tensor(run, tmp_path):
    table = tmp_path / "table.csv"
    assert main(["export", run, "--csv", str(table)]) == 0
    first, second = csv.DictReader(table.open())
    assert (first["step"], first["rule"], first["norm_before"]) == ("0", "all, together", "5.0")
    assert (first["clipped"], second["skipped"]) == ("True", "True")
    assert (first["tensors.w"], first["tensors.b"], first["offenders"]) == ("3.0", "4.0", "")
    assert (second["norm_before"], second["threshold"], second["offenders"]) == ("nan", "inf", "w b")
    assert second["tensors.w"] == ""


def test_json_is_one_document_that_holds_the_events(run, capsys):
    assert main(["export", run, "--json"]) == 0
    document = capsys.readouterr().out
    back = [Event.from_dict(one) for one in json.loads(document)]
    assert repr(back) == repr([replace(event) for event in EVENTS])


@pytest.mark.parametrize(
    ("arguments", "cure"),
    [
        (["nowhere", "--json"], "is no run: a run is a folder with events.jsonl"),
        (["RUN", "--csv", "/dev/null/table"], "give a file that can be written"),
        (["RUN", "--csv", "/dev/full"], "No space left on device"),
    ],
)
def test_a_mistake_gets_one_line_with_the_cure(run, capsys, arguments, cure):
    assert main(["export", *(run if word == "RUN" else word for word in arguments)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("gradclip export: ")
    assert cure in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("arguments", [["run"], ["run", "--csv", "a", "--json"]])
def test_one_form_must_be_chosen(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["export", *arguments])
    assert stopped.value.code == 2
    assert "--json" in capsys.readouterr().err
