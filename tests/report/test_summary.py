"""Worst steps, worst parameters, layers, what-if and the summary as data, against numbers worked out by hand."""

import json
import math
from pathlib import Path

import pytest

from gradclip.report import summarise
from gradclip.report.layers import heat_of, layers_of
from gradclip.report.tiles import facts_of, tiles_of
from gradclip.report.what_if import LONGEST, what_if
from gradclip.report.worst import worst_parameters, worst_steps
from gradclip.telemetry import Run
from gradclip.verdict.numbers import usual_norms
from report.example_runs import noise, run_of, with_losses, with_tensors


def worst(run):
    return worst_steps(run, usual_norms([event.norm_before for event in run]))


def test_the_worst_steps_are_three_broken_ones_and_the_ten_largest():
    found = worst(run_of([math.nan] * 5 + [float(norm) for norm in range(1, 30)], threshold=25.0))
    assert [one.step for one in found] == [0, 1, 2, *range(33, 23, -1)]
    assert [one.outcome for one in found[:4]] == ["went into the optimizer"] * 3 + ["clipped to 25"]
    assert found[-1].outcome == "let through"
    # The median of 1 to 29 is 15.
    assert found[3].ratio == pytest.approx(29 / 15)
    assert found[0].tensors == ("head.weight",)


def test_a_worst_step_names_the_tensor_with_the_largest_norm():
    run = with_tensors(run_of([1.0, 9.0]), lambda i: {"a": 3.0, "b": float(i)})
    assert [one.tensors for one in worst(run)] == [("a",), ("a",)]


def test_the_worst_parameters_are_the_broken_ones_then_those_with_the_largest_norms():
    norms = [{"a": 1.0, "b": 5.0, "c": 2.0}, {"a": 3.0, "b": 1.0, "c": math.nan}, {"a": 2.0, "b": 1.0, "c": 4.0}]
    found = worst_parameters(with_tensors(run_of([1.0, math.nan, 1.0]), norms.__getitem__))
    rows = {one.name: (one.largest, one.at_step, one.median, one.nonfinite) for one in found}
    assert list(rows) == ["c", "head.weight", "b", "a"]
    assert rows["c"] == (4.0, 2, 3.0, 1)
    assert rows["b"] == (5.0, 0, 1.0, 0)
    assert rows["a"] == (3.0, 1, 2.0, 0)


def test_without_norms_of_tensors_the_broken_ones_are_known_all_the_same():
    (found,) = worst_parameters(run_of([1.0, math.nan, math.nan]))
    assert (found.name, found.nonfinite, found.at_step) == ("head.weight", 2, None)
    assert math.isnan(found.largest)
    assert worst_parameters(run_of([1.0])) == []


def test_a_cell_of_the_heat_map_is_the_largest_norm_of_its_steps():
    run = with_tensors(run_of([1.0] * 4), lambda i: {"a": float(i), "b": math.inf if i == 3 else 1.0})
    heat = heat_of(run, most_columns=2)
    assert heat.rows == ["a", "b"]
    assert heat.spans == [(0, 1), (2, 3)]
    assert heat.norms == [[1.0, 3.0], [1.0, 1.0]]
    assert heat.broken == [(1, 1)]


def test_a_run_without_norms_of_tensors_has_no_heat_map():
    assert heat_of(run_of([1.0])) is None
    assert heat_of([]) is None


def test_5000_tensors_become_layers_by_the_beginnings_of_their_names():
    names = [f"layers.{layer}.{part}.weight" for layer in range(40) for part in range(125)]
    assert set(layers_of(names, 48).values()) == {f"layers.{layer}" for layer in range(40)}
    heat = heat_of(with_tensors(run_of([1.0]), lambda i: {name: float(n) for n, name in enumerate(names)}))
    assert len(heat.rows) == 40
    assert heat.norms[39] == [4999.0]
    assert "5,000 tensors; put together by the beginnings of their names into 40 rows" in heat.note


def test_of_5000_names_without_parts_the_largest_norms_and_the_broken_ones_are_shown():
    norms = {f"p{n}": math.nan if n == 7 else float(n) for n in range(5000)}
    heat = heat_of(with_tensors(run_of([1.0]), lambda i: norms))
    assert heat.rows == ["p7", *(f"p{n}" for n in range(4953, 5000))]
    assert "the 48 with the largest norms are shown" in heat.note


def test_few_beginnings_are_not_all_that_is_shown():
    names = [f"encoder.{n}" for n in range(60)] + ["head"]
    assert len(set(layers_of(names, 48).values())) == 61


def test_what_if_begins_with_the_run_as_it_was():
    found = what_if(run_of([1.0, 1.0, 1.0, 5.0], threshold=2.0)).rows
    assert (found[0].rule, found[0].clip_rate, found[0].largest) == (None, 0.25, 2.0)
    assert found[0].kept == pytest.approx(5 / 8)
    by_rule = {one.rule: one for one in found}
    # The median is 1: the one norm above is cut to 1.
    assert (by_rule["global:1"].clip_rate, by_rule["global:1"].largest) == (0.25, 1.0)
    assert by_rule["global:1"].kept == pytest.approx(4 / 8)
    # Ten medians let all pass.
    assert (by_rule["global:10"].clip_rate, by_rule["global:10"].kept, by_rule["global:10"].largest) == (0.0, 1.0, 5.0)
    assert "autoclip" in by_rule
    assert "zclip:max_norm=None" in by_rule


def test_what_if_has_what_the_run_suggests_first():
    found = what_if(run_of([1.0, 1.1, 1.2, 1.3, 1.4] * 40, threshold=9.0)).rows[1]
    # The 95 % quantile of a steady run; a fifth of its norms are the largest, 1.4, and lie at it.
    assert (found.rule, found.words) == ("global:1.4", "what gradclip suggest proposes")
    assert found.clip_rate == 0.0


def test_of_a_long_run_the_last_20_000_steps_are_replayed_and_the_page_says_so(monkeypatch):
    monkeypatch.setattr("gradclip.report.what_if.LONGEST", 50)
    assert LONGEST == 20_000
    found = what_if(run_of([100.0] * 10 + [1.0] * 50))
    assert found.rows[0].largest == 1.0
    assert "last 50 steps of 60" in found.note


def test_without_numpy_a_window_of_norms_is_not_replayed_and_this_is_said(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    found = what_if(run_of([1.0] * 30))
    assert "autoclip" not in {one.rule for one in found.rows}
    assert 'pip install "gradclip[cpu]"' in found.note


@pytest.mark.parametrize("norms", [[], [0.0, 0.0], [math.nan]])
def test_where_no_norm_is_above_0_nothing_is_replayed(norms):
    assert what_if(run_of(norms)) is None


def test_the_summary_is_json_without_nan():
    run = with_tensors(run_of([*noise(30), math.nan, 0.0], threshold=5.0), lambda i: {"a": math.inf})
    document = json.dumps([one.to_dict() for one in summarise([run, Run()])], allow_nan=False)
    first, second = json.loads(document)
    assert (first["steps"], first["verdict"]["kind"]) == (32, "non-finite")
    assert first["worst_steps"][0]["norm_before"] is None
    assert second["median"] is None


def test_runs_are_called_by_their_folders_and_by_their_paths_where_those_are_alike():
    names = [one.name for one in summarise([Run(path=Path("x/a")), Run(path=Path("x/b"))])]
    assert names == ["a", "b"]
    names = [one.name for one in summarise([Run(path=Path("x/a")), Run(path=Path("y/a"))])]
    assert names == ["x/a", "y/a"]


def test_the_tiles_have_the_numbers_in_words():
    (summary,) = summarise([run_of([1.0, 2.0, 3.0, math.nan], threshold=2.0, skipped=True)])
    tiles = {tile.label: (tile.value.replace("\N{NO-BREAK SPACE}", " "), tile.remark) for tile in tiles_of(summary)}
    assert tiles == {
        "Steps": ("4", "0 to 3"),
        "Clip rate": ("33 %", "1 of 3 finite steps"),
        "Median norm": ("2", "threshold 2"),
        "99th percentile": ("2.98", "largest norm 3"),
        "Non-finite steps": ("1", "the first is step 3"),
        "Skipped steps": ("1", "left out by the optimizer"),
    }


def loss_tiles(losses):
    tiles = tiles_of(summarise([with_losses(run_of([1.0] * len(losses)), losses)])[0])
    return [(tile.value, tile.remark) for tile in tiles if tile.label == "Loss"]


def test_the_first_tile_is_the_loss_at_the_beginning_and_at_the_end():
    tenths = "means of the first and of the last tenth of the steps"
    assert loss_tiles([4.61, *[2.0] * 8, 1.54]) == [("4.61 → 1.54", tenths)]
    assert loss_tiles([4.61, *[2.0] * 8, math.nan]) == [("4.61 → not finite", f"{tenths}; NaN or infinity: 1 step")]
    assert loss_tiles([None] * 10) == []


def test_the_loss_is_in_the_data_and_one_that_is_not_finite_is_none_there():
    (summary,) = summarise([with_losses(run_of([1.0] * 10), [4.0, *[2.0] * 8, math.inf])])
    data = summary.to_dict()
    assert (data["losses"], data["nonfinite_losses"], data["first_loss"], data["final_loss"]) == (10, 1, 4.0, None)


def test_what_made_the_run_is_told_so_far_as_it_is_known():
    run = run_of([1.0])
    assert facts_of(summarise([run])[0]) == "engine cpu"
    run.about.update(framework="torch", framework_version="2.13", gradclip="0.1", parameters={"w": [2], "b": [1]})
    run.about["script"] = {"arguments": ["train.py", "--epochs", "3"]}
    told = "train.py --epochs 3 · torch 2.13 · gradclip 0.1 · engine cpu · 2 parameter tensors"
    assert facts_of(summarise([run])[0]) == told


def test_a_report_about_nothing_is_refused():
    with pytest.raises(ValueError, match="one run or more"):
        summarise([])
