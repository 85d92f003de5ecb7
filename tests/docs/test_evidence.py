"""The page of evidence says what the committed results say, and the results are those of the tasks."""

from __future__ import annotations

import json

import pytest

import make_evidence as evidence
from experiments.paired import compared
from gradclip.experiments.tasks.titles import TASKS

LARGEST_PICTURE = 120_000


@pytest.fixture(scope="module")
def results():
    return evidence.found()


def test_the_page_is_up_to_date(capsys) -> None:
    assert evidence.main(["--check"]) == 0, capsys.readouterr().out


def test_check_sees_a_changed_page_and_a_changed_result(tmp_path, monkeypatch) -> None:
    page, folder = tmp_path / "evidence.md", tmp_path / "evidence"
    folder.mkdir()
    for name in TASKS:
        (folder / f"{name}.json").write_text((evidence.FOLDER / f"{name}.json").read_text())
    monkeypatch.setattr(evidence, "PAGE", page)
    monkeypatch.setattr(evidence, "FOLDER", folder)
    assert evidence.main(["--check"]) == 1
    assert evidence.main([]) == 0
    assert evidence.main(["--check"]) == 0
    result = folder / "bias.json"
    document = json.loads(result.read_text())
    document["rules"][0]["runs"][0]["metric"] = 99.0
    result.write_text(json.dumps(document))
    assert evidence.main(["--check"]) == 1


def test_at_least_five_published_claims_are_reproduced(results) -> None:
    reproduced = [claim for task, comparison in results for claim in task.claims if claim.reproduced(comparison)]
    assert len(reproduced) >= 5
    assert len({claim.source for claim in reproduced}) >= 5


@pytest.mark.parametrize("name", TASKS)
def test_a_result_has_five_seeds_the_versions_and_the_rules_of_its_task(name: str) -> None:
    document = json.loads((evidence.FOLDER / f"{name}.json").read_text())
    assert document["seeds"] == [0, 1, 2, 3, 4]
    assert set(document["versions"]) == {"gradclip", "python", "torch"}
    assert [rule["text"] for rule in document["rules"]] == list(evidence.task_called(name).rules)


@pytest.mark.parametrize("name", TASKS)
def test_a_picture_is_small_enough_for_a_page(name: str) -> None:
    assert (evidence.FOLDER / f"{name}.png").stat().st_size < LARGEST_PICTURE


def test_worse_on_every_seed_is_said_only_where_it_is_so() -> None:
    none, low = [2.0] * 9, [1.0] * 9
    assert "every other rule is worse than it on every seed." in evidence.beside_the_best(compared(none=none, ours=low))
    but_one = compared(none=none, ours=[*low[:8], 3.0])
    assert evidence.beside_the_best(but_one).endswith("; every other rule is worse than it.")


def test_words_follow_the_numbers(results) -> None:
    (comparison,) = [comparison for task, comparison in results if task.name == "heavy-tails"]
    before = evidence.against_the_first(comparison)
    swapped = type(comparison)(
        comparison.title, comparison.metric, tuple(reversed(comparison.contenders)), comparison.versions
    )
    assert evidence.against_the_first(swapped) != before
    assert "Against `none`, better: `global:10`" in before
