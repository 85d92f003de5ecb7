"""What `--json` prints is strict JSON of the schema that docs/json.md shows, NaN and infinity included."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import fastjsonschema
import pytest

import make_json
from effort import only_long
from gradclip.advice.trainings import Training, TrialsResult
from gradclip.cli import main
from gradclip.doctor import Finding, installation
from gradclip.experiments.showing import comparison_report
from gradclip.experiments.tasks import bias
from gradclip.telemetry import jsonl
from report.example_runs import falling, noise, run_of, with_losses, with_tensors
from structure import ROOT
from watching import python

TRAINING = Path(__file__).parent / "example_training.py"
SCHEMAS = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in make_json.FOLDER.glob("*.json")}


def refuse(word):
    raise AssertionError(f"{word} is no JSON")


def checked(name, text):
    """The document in `text`: there is nothing else in it, and it is of the schema called `name`."""
    document = json.loads(text, parse_constant=refuse)
    fastjsonschema.validate(SCHEMAS[name], document)
    return document


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A script, and runs: a calm one, one with all that is not finite, one of two optimizers, one without a step."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(TRAINING, tmp_path / "train.py")
    calm = with_losses(run_of(noise(120, {30}), 5.0), falling(120))
    losses = [*falling(117), math.nan, math.inf, -math.inf]
    wild = with_losses(run_of([*noise(117), math.nan, math.inf, 0.0], 5.0), losses)
    wild = with_tensors(wild, lambda step: {"a.weight": 1.0, "b.weight": math.nan if step > 115 else 2.0})
    runs = {"calm": calm, "wild": wild, "two": calm, "two/second": calm, "broken": run_of([math.nan, math.inf])}
    for name, run in runs.items():
        sink = jsonl(tmp_path / name)
        for event in run:
            sink(event)
        sink.close()
    return tmp_path


@pytest.mark.parametrize(
    ("schema", "arguments"),
    [
        *(("doctor", ["doctor", run]) for run in ("calm", "wild", "broken")),
        *(("report", ["report", *runs]) for runs in (["calm"], ["calm", "wild"], ["two"], ["broken"])),
        *(("suggest", ["suggest", run]) for run in ("calm", "wild", "two", "broken")),
        *(("export", ["export", run]) for run in ("calm", "wild", "broken")),
        ("methods", ["methods"]),
        ("methods", ["methods", "agc"]),
        ("compare", ["compare"]),
        ("completion", ["completion", "bash"]),
    ],
    ids=str,
)
def test_a_document_of_a_run_or_of_a_list_is_of_its_schema(folder, capsys, schema, arguments):
    assert main([*arguments, "--json"]) in (0, 1)
    told, said = capsys.readouterr()
    assert said == ""
    checked(schema, told)


def test_the_document_of_a_script_that_is_watched_or_diagnosed(folder):
    for name in ("watch", "doctor"):
        answer = python("-m", "gradclip", name, "--json", "train.py", folder=folder)
        assert answer.returncode == 0, answer.stderr
        checked(name, answer.stdout)
        assert "accuracy" in answer.stderr  # what the script prints stands elsewhere


def test_the_document_of_the_versions(monkeypatch, capsys):
    monkeypatch.setattr(installation, "outcome_of", lambda framework: ({"torch": (True, "CPU")}, "it broke"))
    assert main(["doctor", "--versions", "--json"]) == 0
    checked("versions", capsys.readouterr().out)


def test_the_document_of_a_comparison(monkeypatch, capsys):
    monkeypatch.setattr(comparison_report, "PROCESSES", 1)

    def train(rule, seed):
        outcome = bias.train(rule, seed, steps=20)
        return replace(outcome, metric=math.nan, curve=((0.0, math.inf),)) if seed else outcome

    monkeypatch.setattr(bias, "TASK", replace(bias.TASK, train=train))
    assert main(["compare", "bias", "--rules", "none", "global:2", "--seeds", "2", "--json"]) == 0
    document = checked("compare", capsys.readouterr().out)
    assert [run["metric"] is None for rule in document["rules"] for run in rule["runs"]] == [False, True] * 2


@pytest.mark.parametrize("path", sorted((ROOT / "docs" / "evidence").glob("*.json")), ids=lambda path: path.stem)
def test_the_comparisons_of_the_pages_are_of_the_schema(path):
    text = path.read_text()
    if path.stem not in ("rule-search", "suggest"):
        checked("compare", text)


def test_the_document_of_trials():
    ended = Training(None, Path("runs/as-it-is"), 60, math.inf, 1), Training(1.0, Path("runs/global-1"), 60, 0.5, 0)
    document = {**TrialsResult(ended).to_dict(), "interrupted": False}
    assert checked("suggest", json.dumps(document))["trainings"][0]["loss"] is None


def test_the_document_of_what_is_wrong():
    found = Finding("never-reached", "it clips nothing", "take a lower one", "train.py:7", 0, 40, 40).to_dict()
    verdict = {"kind": "mistaken", "level": "bad", "sentence": "..."}
    checked("doctor", json.dumps({"findings": [found], "verdicts": {"runs/first": verdict}}))
    run = {"steps": 40, "clipped": 0, "verdict": verdict, "findings": [found]}
    checked("watch", json.dumps({"exit": 0, "runs": {"runs/first": run}}))


@only_long
def test_the_documents_of_what_trains_for_long(folder):
    answer = python("-m", "gradclip", "suggest", "--trials", "2", "--json", "train.py", folder=folder)
    assert checked("suggest", answer.stdout)["kind"] == "by trial"
    checked("demo", python("-m", "gradclip", "demo", "--json", folder=folder).stdout)


def parts_of(schema):
    """The objects with named fields in a schema."""
    if isinstance(schema, dict):
        if "properties" in schema:
            yield schema
        for part in schema.values():
            yield from parts_of(part)
    if isinstance(schema, list):
        for part in schema:
            yield from parts_of(part)


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_schema_says_what_each_field_means_and_admits_no_other(name):
    for part in parts_of(SCHEMAS[name]):
        assert part["additionalProperties"] is False
        assert set(part["required"]) == set(part["properties"])
        assert all(len(field["description"]) > 2 for field in part["properties"].values())


def test_a_field_that_nobody_documented_and_a_nan_are_seen(folder, capsys):
    assert main(["doctor", "calm", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    with pytest.raises(fastjsonschema.JsonSchemaException, match="mood"):
        checked("doctor", json.dumps({**document, "mood": "well"}))
    with pytest.raises(AssertionError, match="NaN is no JSON"):
        checked("doctor", json.dumps({**document, "findings": [math.nan]}))


def test_the_page_is_up_to_date(capsys):
    assert make_json.main(["--check"]) == 0, capsys.readouterr().out


def test_every_example_of_the_page_is_of_its_schema():
    for name, schema in SCHEMAS.items():
        assert schema["examples"], name
        for example in schema["examples"]:
            fastjsonschema.validate(schema, example)
