"""The page of the methods says what the functions say, and holds the record of their profiles."""

from __future__ import annotations

import re

import pytest

import make_methods
from gradclip.rules.catalogue import methods

PAGE = make_methods.PAGE.read_text(encoding="utf-8")


@pytest.fixture
def known_record(monkeypatch):
    """The profiles are as recorded: running them is the business of their own test."""
    monkeypatch.setattr(make_methods.profiles, "profiles", dict)
    monkeypatch.setattr(make_methods.profiles, "record", lambda found: make_methods.stored())


def test_the_page_is_up_to_date(known_record, capsys) -> None:
    assert make_methods.main(["--check"]) == 0, capsys.readouterr().out


def test_check_sees_a_changed_page_and_a_changed_record(known_record, tmp_path, monkeypatch) -> None:
    record = make_methods.stored()
    monkeypatch.setattr(make_methods.profiles, "record", lambda found: record)
    monkeypatch.setattr(make_methods.profile_picture, "save_profiles", lambda found, path: path.touch())
    monkeypatch.setattr(make_methods, "ROOT", tmp_path)
    for name in ("PAGE", "RECORD", "PICTURE"):
        monkeypatch.setattr(make_methods, name, tmp_path / "docs" / getattr(make_methods, name).name)
    assert make_methods.main(["--check"]) == 1
    assert make_methods.main([]) == 0
    assert make_methods.main(["--check"]) == 0
    page = make_methods.PAGE
    page.write_text(page.read_text().replace("39", "40", 1).replace("ZClip", "Zclip", 1))
    assert make_methods.main(["--check"]) == 1
    assert make_methods.main([]) == 0
    record["methods"]["ZClip"]["traits"]["reach_2"] += 1
    assert make_methods.main(["--check"]) == 1


@pytest.mark.parametrize("name", methods())
def test_a_method_has_its_section_with_formula_and_source(name) -> None:
    (section,) = re.findall(rf"^## {name}\n(.*?)(?=^## |\Z)", PAGE, flags=re.M | re.S)
    for part in (
        "**Formula.** ",
        f"gradclip.{name}(",
        "**As a rule.** ",
        "**Remembers** ",
        "**Source.** ",
        "**Profile.**",
    ):
        assert part in section, part
    assert f"(#{name.lower()})" in PAGE


def test_numbers_are_told_in_words() -> None:
    traits = make_methods.profiles.Traits(0.02, 0.998, 0.41, 0.5, 0, None, 0.991)
    assert make_methods.told(traits) == (
        "Of quiet norms it clips 2 % and keeps 100 %, of noisy ones 41 % and 50 %. A lasting change of the level by 2 "
        "is taken up at once, by 10 not within 2500 steps. Of ten bad steps the largest leaves as 0.99 ordinary norms."
    )


def test_a_bar_in_a_cell_does_not_end_it() -> None:
    lines = make_methods.overview(methods()).splitlines()
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {6}
