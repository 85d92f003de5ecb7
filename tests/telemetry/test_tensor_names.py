"""The names of tensors in a run: written once, and again where they change; older runs have them in each line."""

import json
import math
from dataclasses import replace

import pytest

from gradclip.errors import GradclipWarning
from gradclip.telemetry import Event, jsonl, read_run
from gradclip.telemetry.tensor_names import MOST, NameWriter, number_of

EVENT = Event(0, "all", "cpu", 5.0, 1.0, 1.0, 0.2, True, tensors={"layer.weight": 3.0, "layer.bias": 4.0})
OTHER = {"layer.bias": 4.0}


def written(folder, events):
    sink = jsonl(folder)
    for event in events:
        sink(event)
    sink.close()
    return (folder / "events.jsonl").read_text(encoding="utf-8").splitlines()


def numbered(*tensors):
    return [replace(EVENT, step=step, tensors=own) for step, own in enumerate(tensors)]


def test_the_names_are_written_once(tmp_path):
    events = numbered(*[EVENT.tensors] * 50)
    lines = written(tmp_path / "run", events)
    assert len(lines) == 51
    assert sum("layer.weight" in line for line in lines) == 1
    assert read_run(tmp_path / "run") == events


def check_other_names(folder):
    """A step in which a tensor has no gradient has other names; those of before are known still."""
    events = numbered(EVENT.tensors, OTHER, EVENT.tensors, None, {}, OTHER)
    assert len(written(folder / "run", events)) == 8
    assert read_run(folder / "run") == events


def test_names_that_change_are_written_again(tmp_path):
    check_other_names(tmp_path)


def test_norms_that_are_not_finite_come_back(tmp_path):
    events = numbered({"layer.weight": math.inf, "layer.bias": 1.0}, {"layer.weight": math.nan, "layer.bias": 1.0})
    written(tmp_path / "run", events)
    first, second = read_run(tmp_path / "run")
    assert first == events[0]
    assert math.isnan(second.tensors["layer.weight"])


def test_a_run_that_goes_on_writes_them_anew(tmp_path):
    events = numbered(EVENT.tensors, OTHER, OTHER, EVENT.tensors)
    written(tmp_path / "run", events[:2])
    written(tmp_path / "run", events[2:])
    assert read_run(tmp_path / "run") == events


def test_a_run_of_the_schema_before_is_read(tmp_path):
    events = numbered(EVENT.tensors, OTHER)
    (tmp_path / "run").mkdir()
    lines = "".join(json.dumps({**event.to_dict(), "schema": 1}) + "\n" for event in events)
    (tmp_path / "run" / "events.jsonl").write_text(lines, encoding="utf-8")
    assert read_run(tmp_path / "run") == events


@pytest.mark.filterwarnings("ignore::gradclip.errors.GradclipWarning")
def test_where_the_names_are_lost_the_steps_are_not(tmp_path):
    events = numbered(EVENT.tensors, EVENT.tensors)
    lines = written(tmp_path / "run", events)
    (tmp_path / "run" / "events.jsonl").write_text("\n".join(["damaged", *lines[1:], ""]), encoding="utf-8")
    assert read_run(tmp_path / "run") == [replace(event, tensors=None) for event in events]


@pytest.mark.filterwarnings("ignore::gradclip.errors.GradclipWarning")
def test_lost_names_are_not_taken_for_those_of_an_earlier_part(tmp_path):
    """A run that went on has names of its own; as many as before, but of others."""
    other = {"a": 1.0, "b": 2.0}
    events = numbered(EVENT.tensors, other)
    written(tmp_path / "run", events[:1])
    lines = written(tmp_path / "run", events[1:])
    (tmp_path / "run" / "events.jsonl").write_text("\n".join([*lines[:2], "damaged", lines[3], ""]), encoding="utf-8")
    assert read_run(tmp_path / "run") == [events[0], replace(events[1], tensors=None)]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"schema": 2, "names": 0, "tensors": ["a", 3]}, "names of tensors are texts"),
        ({"schema": 2, "tensors": ["a"]}, "have no names"),
        (
            {**EVENT.to_dict(), "names": number_of([*EVENT.tensors]), "tensors": [1.0]},
            "norms of 1 tensors, and there are 2 names",
        ),
    ],
)
def test_a_line_that_does_not_fit_is_left_out(tmp_path, line, said):
    written(tmp_path / "run", [EVENT])
    with open(tmp_path / "run" / "events.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    with pytest.warns(GradclipWarning, match=said):
        assert read_run(tmp_path / "run") == [EVENT]


def test_the_names_that_are_known_at_a_time_are_bounded():
    writer = NameWriter()
    for number in range(3 * MOST):
        assert len([*writer.lines_of(replace(EVENT, tensors={f"t{number}": 1.0}))]) == 2
    assert len(writer._known) <= MOST
