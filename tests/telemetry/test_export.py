"""`gradclip export`: the events of a run as a table or as a document."""

import csv
import importlib.util
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


def test_parquet_has_the_same_columns_with_types(run, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    assert main(["export", run, "--parquet", str(tmp_path / "table.parquet")]) == 0
    table = parquet.read_table(tmp_path / "table.parquet")
    assert main(["export", run, "--csv", str(tmp_path / "table.csv")]) == 0
    assert table.column_names == next(csv.reader((tmp_path / "table.csv").open()))
    types = {name: str(kind) for name, kind in zip(table.column_names, table.schema.types, strict=True)}
    assert (types["step"], types["norm_before"], types["clipped"]) == ("int64", "double", "bool")
    assert (types["offenders"], types["tensors.w"]) == ("list<element: string>", "double")
    first, second = table.to_pylist()
    assert (first["norm_before"], first["tensors.b"], first["time"]) == (5.0, 4.0, 1.5)
    assert math.isnan(second["norm_before"])
    assert (second["threshold"], second["offenders"], second["tensors.w"]) == (math.inf, ["w", "b"], None)


def test_a_run_without_an_event_is_a_table_without_a_line(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    (tmp_path / "events.jsonl").touch()
    assert main(["export", str(tmp_path), "--parquet", str(tmp_path / "table.parquet")]) == 0
    table = parquet.read_table(tmp_path / "table.parquet")
    assert (table.num_rows, str(table.schema.field("step").type)) == (0, "int64")
    assert main(["export", str(tmp_path), "--csv", str(tmp_path / "table.csv")]) == 0
    assert (tmp_path / "table.csv").read_text() == ",".join(table.column_names) + "\n"


def test_parquet_without_pyarrow_gets_one_line(run, capsys, monkeypatch):
    present = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pyarrow" else present(name))
    assert main(["export", run, "--parquet", "table.parquet"]) == 2
    cure = 'gradclip export: --parquet needs pyarrow: pip install "gradclip[parquet]"\n'
    assert capsys.readouterr().err == cure


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
        (["RUN", "--parquet", "/dev/null/table"], "--parquet /dev/null/table: Not a directory; give a file that can"),
    ],
)
def test_a_mistake_gets_one_line_with_the_cure(run, capsys, arguments, cure):
    assert main(["export", *(run if word == "RUN" else word for word in arguments)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("gradclip export: ")
    assert cure in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("form", ["--csv", "--parquet"])
def test_a_table_of_hardly_anything_is_refused(tmp_path, capsys, form):
    """2000 steps with a name of their own each are 4 million cells of which 2000 hold a number."""
    sink = jsonl(tmp_path / "run")
    for step in range(2000):
        sink(replace(EVENTS[0], step=step, tensors={f"t{step}": 1.0}))
    sink.close()
    assert main(["export", str(tmp_path / "run"), form, str(tmp_path / "table")]) == 2
    assert "a table of 4,000,000 cells, of which 2,000 hold a number: export it with --json" in capsys.readouterr().err
    assert not (tmp_path / "table").exists()


@pytest.mark.parametrize(
    ("arguments", "cure"),
    [
        ([], "one of the arguments --csv --parquet --json is required"),
        (["--csv", "a", "--json"], "argument --json: not allowed with argument --csv"),
        (["--csv", "a", "--parquet", "b"], "argument --parquet: not allowed with argument --csv"),
    ],
)
def test_one_form_must_be_chosen(arguments, cure, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["export", "run", *arguments])
    assert stopped.value.code == 2
    assert cure in capsys.readouterr().err
