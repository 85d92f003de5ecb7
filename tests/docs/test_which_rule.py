"""The page of which rule to take says what the record of the search says."""

import json
import shutil

import pytest

import make_which_rule as which
import rule_search
from rule_search import GRID, Record

LARGEST_PICTURE = 120_000


def test_the_page_is_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert which.main(["--check"]) == 0, capsys.readouterr().out


def test_a_changed_result_makes_it_out_of_date(tmp_path, monkeypatch) -> None:
    page, path = tmp_path / "which-rule.md", tmp_path / "rule-search.json"
    shutil.copy(which.PAGE, page)
    data = Record().data
    data["runs"]["digits"]["sgd"]["3"]["none"] = dict.fromkeys("01234", 1.0)
    path.write_text(json.dumps(data))
    monkeypatch.setattr(which, "PAGE", page)
    monkeypatch.setattr(rule_search.Record.__init__, "__defaults__", (path,))
    assert which.main(["--check"]) == 1


@pytest.mark.parametrize(("tasks", "settings"), [("design", 42), ("test", 30)])
def test_every_threshold_was_trained_in_every_setting_on_every_seed(tasks: str, settings: int) -> None:
    record = Record()
    places = [place for _, place in rule_search.settings(record, rule_search.SETS[tasks])]
    assert len(places) == settings
    assert all(record.at(*place, rule).keys() >= set("01234") for place in places for rule in GRID)


def test_lengths_are_of_thresholds_within_a_margin() -> None:
    assert which._range([0.9, 2.7], open_end=False) == "0.9 to 2.7"
    assert which._range([0.95, 3.0], open_end=True) == "from 0.95"
    assert which._range([0.0316], open_end=False) == "0.032"


def test_the_picture_is_small() -> None:
    assert which.PICTURE.stat().st_size < LARGEST_PICTURE
