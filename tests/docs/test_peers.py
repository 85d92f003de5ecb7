"""The page on the tests of other projects names each test that holds a difference, and each file of them."""

from __future__ import annotations

import re
from pathlib import Path

from structure import ROOT

PAGE = ROOT / "docs" / "peers.md"
TESTS = ROOT / "tests" / "parity"


def differences(folder: Path) -> list[str]:
    return sorted(
        name for file in folder.glob("*.py") for name in re.findall(r"def (test_differs_\w+)", file.read_text())
    )


def unlike(page: str, folder: Path) -> set[str]:
    """What only one of the two has: names of differences and of files."""
    files = {file.name for file in folder.glob("test_cases_of_*.py")}
    named = set(re.findall(r"`(test_differs_\w+|test_cases_of_\w+\.py)`", page))
    return named ^ (files | set(differences(folder)))


def test_the_page_has_each_difference_and_each_file_once() -> None:
    assert unlike(PAGE.read_text(), TESTS) == set()
    found = differences(TESTS)
    assert len(found) == len(set(found)) > 0


def test_a_difference_that_the_page_lacks_is_found(tmp_path) -> None:
    (tmp_path / "test_cases_of_nobody.py").write_text("def test_differs_by_a_bug():\n    pass\n")
    assert unlike("", tmp_path) == {"test_cases_of_nobody.py", "test_differs_by_a_bug"}
    assert unlike("`test_cases_of_nobody.py` `test_differs_by_a_bug` `test_differs_no_more`", tmp_path) == {
        "test_differs_no_more"
    }


def test_every_link_of_the_page_leads_somewhere() -> None:
    links = re.findall(r"\]\(([^)]+)\)", PAGE.read_text())
    assert links
    assert [link for link in links if not (PAGE.parent / link).exists()] == []
