"""The page of evidence at a real size, of comparisons that are made up: whole, unfinished, and missing."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

import make_evidence_at_size as evidence
from experiments.paired import compared
from gradclip.experiments import Comparison, Metric
from gradclip.experiments.kept_runs import KeptRuns
from gradclip.experiments.tasks import actor_critic, bias, gan
from gradclip.experiments.tasks.task import Task
from gradclip.experiments.tasks.titles import TITLES

BITS = Metric("bits", margin=0.02)
NONE = [2.0, 2.1, 2.2, 2.3, 2.4, 2.5, 2.6]
RULES = {
    "none": NONE,
    "global:1": [value - 0.01 for value in NONE],
    "zclip": [value + 0.001 * (-1) ** place for place, value in enumerate(NONE)],
    "agc": [*NONE[:6], math.nan],
}
TASKS = {"bias": bias, "gan": gan, "actor-critic": actor_critic}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three tasks of which nothing has been trained, in place of those at a real size."""
    for module in TASKS.values():
        monkeypatch.setattr(module, "TASK", replace(module.TASK, claims=(), metric=BITS, rules=tuple(RULES)))
    monkeypatch.setattr(evidence, "SIZED", {name: TITLES[name] for name in TASKS})
    monkeypatch.setattr(evidence, "FOLDER", tmp_path)
    monkeypatch.setattr(evidence, "PAGE", tmp_path / "page.md")
    return tmp_path


def whole(metric: Metric = BITS, seeds: int = 7) -> Comparison:
    return compared(metric, **{text: values[:seeds] for text, values in RULES.items()})


def write(path: Path, comparison: Comparison) -> None:
    path.write_text(json.dumps(comparison.to_json()))


def keep(path: Path, task: Task, comparison: Comparison, but: tuple[str, int] | None = None) -> None:
    """The runs of a comparison in a file, as they end; without one of them."""
    kept = KeptRuns(path, task.title, task.metric)
    for place, seed in enumerate(comparison.seeds):
        for one in comparison.contenders:
            if (one.text, seed) != but:
                kept.add(one.text, one.sentence, one.runs[place])


def text() -> str:
    """The page, with each paragraph in a line."""
    return evidence.page(evidence.found()).replace("\n\n", "\0").replace("\n", " ").replace("\0", "\n")


def test_the_page_is_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert evidence.main(["--check"]) == 0, capsys.readouterr().out


def test_what_was_not_trained_is_named_and_a_page_without_anything_says_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder / "gan.json", whole())
    assert f"Not trained yet: `bias` ({TITLES['bias'].title}), `actor-critic` (" in text()
    assert "## gan" in text()
    assert "## bias" not in text()
    monkeypatch.setattr(evidence, "SIZED", {})
    assert "Not trained yet: any of them." in text()


def test_a_task_is_shown_with_everything_that_was_found(folder: Path) -> None:
    write(folder / "gan.json", whole())
    told = text()
    for line in (
        "| rule | median | min to max | diverged | a run | against none |",
        "| `agc` | 2.3 | 2 to 2.5 | 1 of 7 | 1 s | within noise |",
        "| rule | difference | 98.4 % interval | wins | chance | corrected | within 0.02 |",
        "| `global:1` | -0.01 | -0.01 to -0.01 | 7 of 7 | 0.016 | 0.047 | yes |",
        "| `agc` | 0 | 0 to +inf | 0 of 7 | 1 | 1 | no |",
        "Difference from `none`, seed by seed; a difference of less than 0.02 does not matter.",
        "Against `none`, better by less than the margin, also corrected: `global:1`; equal: `zclip`; "
        "within noise: `agc`.",
        "Diverged: agc: seed 6 at the end.",
        "](evidence/gan.png)",
        "Seeds 0, 1, 2, 3, 4, 5, 6",
        f"{evidence.sentence(TITLES['gan'].title)}. ",
        "| [gan](#gan) | 7 | `global:1`, 2.29 | better by less than the margin, also corrected: `global:1`",
    ):
        assert line in told
    assert "so far" not in told
    assert "not yet in the file" not in told


def test_an_unfinished_one_is_shown_on_the_seeds_that_every_rule_has_and_without_a_headline(folder: Path) -> None:
    keep(folder / "gan.runs.jsonl", gan.TASK, whole(seeds=4), but=("zclip", 3))
    told = text()
    assert "**3 seeds so far, fewer than the 7 of a headline.**" in told
    assert "| [gan](#gan) | 3 | `global:1`, 2.09 | fewer than 7 seeds, no headline |" in told
    assert "too few seeds: `global:1`, `zclip`, `agc`" in told
    keep(folder / "bias.runs.jsonl", bias.TASK, whole(seeds=1), but=("agc", 0))
    assert "Not trained yet: `bias`" in text()  # no seed has been trained on under every rule


def test_of_a_document_and_a_file_the_one_with_more_seeds_is_shown(folder: Path) -> None:
    write(folder / "gan.json", whole(seeds=2))
    keep(folder / "gan.runs.jsonl", gan.TASK, whole(seeds=6))
    assert "Seeds 0, 1, 2, 3, 4, 5;" in text()
    write(folder / "gan.json", whole())
    assert "Seeds 0, 1, 2, 3, 4, 5, 6;" in text()


def test_a_margin_that_came_later_is_told_of(folder: Path) -> None:
    write(folder / "gan.json", whole(Metric("bits")))
    told = text()
    assert "less than 0.02 does not matter, which was not yet in the file when the first run began." in told
    assert "equal: `zclip`" in told
    write(folder / "gan.json", whole(Metric("bits", margin=0.5)))
    assert "less than 0.5 does not matter.\n" in text()  # that of the file counts


def test_writing_draws_the_pictures_and_checking_writes_nothing(folder: Path) -> None:
    write(folder / "gan.json", whole())
    assert evidence.main(["--check"]) == 1
    assert sorted(path.name for path in folder.iterdir()) == ["gan.json"]
    assert evidence.main([]) == 0
    assert sorted(path.name for path in folder.iterdir()) == ["gan.json", "gan.png", "page.md"]
    assert evidence.main(["--check"]) == 0
    keep(
        folder / "gan.runs.jsonl", gan.TASK, compared(BITS, **{text: [*values, 3.0] for text, values in RULES.items()})
    )
    assert evidence.main(["--check"]) == 1
