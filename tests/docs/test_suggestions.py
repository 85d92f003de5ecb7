"""The page on suggestions says what its document says, and the document is what `suggest` proposes."""

from __future__ import annotations

import json

import pytest

import make_suggestions as suggestions
from effort import only_long
from gradclip.advice.suggestion import suggest
from gradclip.experiments.sign_test import WORSE
from gradclip.experiments.tasks.titles import TASKS
from gradclip.rules.rule import rules_in
from gradclip.rules.text import rule_from_text


def test_the_page_is_up_to_date(capsys) -> None:
    assert suggestions.main(["--check"]) == 0, capsys.readouterr().out


def test_check_sees_a_changed_result(tmp_path, monkeypatch) -> None:
    data = suggestions.stored()
    monkeypatch.setattr(suggestions, "DATA", tmp_path / "suggest.json")
    monkeypatch.setattr(suggestions, "PAGE", tmp_path / "suggestions.md")
    suggestions.DATA.write_text(json.dumps(data))
    assert suggestions.main([]) == 0
    assert suggestions.main(["--check"]) == 0
    data["tasks"]["bias"]["grid"]["none"] = [9.0] * len(suggestions.SEEDS)
    suggestions.DATA.write_text(json.dumps(data))
    assert suggestions.main(["--check"]) == 1


def test_every_task_was_trained_on_every_seed_under_the_whole_grid() -> None:
    data = suggestions.stored()
    assert list(data["tasks"]) == list(TASKS)
    for own in data["tasks"].values():
        assert list(own["suggestions"]) == list(own["trials"]) == list(suggestions.STARTS)
        assert tuple(own["grid"]) == suggestions.GRID
        trained = [*own["grid"].values(), *own["suggestions"].values(), *own["trials"].values()]
        assert {len(runs) for runs in trained} == {len(suggestions.SEEDS)}


@pytest.mark.parametrize("name", ["digits", "heavy-tails"])
def test_a_suggestion_is_that_of_today(name: str) -> None:
    """Recorded anew: another machine adds up in another order, so that norms differ in their last digits."""
    old = suggestions.stored()["tasks"][name]["suggestions"]["none"][0]
    new = suggest(suggestions.first_run(name, suggestions.STARTS["none"], suggestions.SEEDS[0] + suggestions.OTHER))
    assert new.kind == old["kind"]
    (recorded,) = rules_in(rule_from_text(old["rule"]))
    assert new.threshold == pytest.approx(recorded.threshold.value(0), rel=0.05)


@only_long
def test_what_a_search_finds_is_what_it_finds_today() -> None:
    own = suggestions.stored()["tasks"]["heavy-tails"]["trials"]["global:1"][0]
    seed = suggestions.SEEDS[0] + suggestions.OTHER
    rule, trainings = suggestions.searched("heavy-tails", "global:1", suggestions.STARTS["global:1"], seed)
    new, old = (rules_in(rule_from_text(text))[0].threshold.value(0) for text in (rule, own["rule"]))
    assert new == pytest.approx(old, rel=0.05)
    assert trainings == own["trainings"]


def test_no_suggestion_by_trial_is_worse_than_the_best_of_the_grid() -> None:
    assert WORSE not in {row.verdict for row in suggestions.rows(suggestions.stored(), "trials")}


@pytest.mark.parametrize("how", suggestions.HOW)
def test_a_suggestion_that_is_worse_is_called_so(how: str) -> None:
    found = list(suggestions.rows({"tasks": {name: _worst_possible() for name in TASKS}}, how))
    assert {row.verdict for row in found} == {WORSE}
    tasks = ", ".join(TASKS)
    assert f"suggestions are worse on {tasks}; worse than that on {tasks}." in suggestions.summary(found)


def _worst_possible():
    """A task on which what was suggested diverged on all seeds, and nothing of the grid did."""
    fine = {text: [1.0] * 5 for text in suggestions.GRID}
    found = [{"kind": "steady", "left": False, "rule": "global:7", "metric": None}] * 5
    return {"grid": fine, **dict.fromkeys(suggestions.HOW, dict.fromkeys(suggestions.STARTS, found))}
