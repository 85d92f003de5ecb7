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
    assert which._range(["global:1", "global:3"], 0.9) == "0.9 to 2.7"
    assert which._range(["global:30", "global:100", "none"], 0.0316) == "from 0.95"
    assert which._range(["global:0.1"], 0.316) == "0.032"
    assert which._range(["none"], 1.0) == "none"


def test_a_length_that_is_good_at_all_rates_is_told_from_a_threshold_that_is(monkeypatch) -> None:
    by_rate = [(1 / 3, "global:3"), (1.0, "global:1"), (3.0, "global:0.3")]
    made = {
        "length": [(task_rate, {rule}) for task_rate, rule in by_rate],
        "threshold": [(task_rate, {"global:10"}) for task_rate, _ in by_rate],
        "unbounded": [(1 / 3, {"global:30"}), (1.0, {"global:1", "none"}), (3.0, {"none", "global:0.3", "global:1"})],
        "never": [(1 / 3, {"none"}), (1.0, {"none"}), (3.0, {"global:0.01"})],
    }

    def good(record: object, tasks: list[str]) -> list[tuple[str, float, set[str]]]:
        return [(task, reach, rules) for task in tasks for reach, rules in made[task]]

    monkeypatch.setattr(which, "good_under_sgd", good)
    found = {task: tuple(which.good_at_all_rates(Record(), [task]).values()) for task in made}
    assert found == {"length": (1, 0), "threshold": (0, 1), "unbounded": (1, 0), "never": (0, 0)}


def test_the_picture_is_small() -> None:
    assert which.PICTURE.stat().st_size < LARGEST_PICTURE
