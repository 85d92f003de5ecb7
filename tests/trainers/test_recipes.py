"""The pages about trainers: what they say can be typed as it stands, page by page, in a process of its own."""

from __future__ import annotations

import re

import pytest

from pages import DOCS, is_of_trainers, pages_to_type, typed
from trainers.small import ROOT

PAGES = [page for page in pages_to_type() if is_of_trainers(page)]
TRAINERS = [page for page in PAGES if page.parent.name == "trainers"]
TABLE = DOCS / "trainers.md"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.stem}/{page.stem}")
def test_a_page_can_be_typed_as_it_stands(page, tmp_path):
    done = typed(page, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]


def test_each_page_is_in_the_table_and_each_version_is_the_one_that_was_tested():
    text, pins = TABLE.read_text(), (ROOT / "constraints.txt").read_text()
    assert len(TRAINERS) == len(list((DOCS / "trainers").glob("*.md")))
    for page in TRAINERS:
        assert f"trainers/{page.name}" in text, page.name
    tested = re.findall(r"\| \[[^]]+\]\(trainers/[^)]+\) \| `([\w-]+)` ([\d.]+) \|", text)
    assert len(tested) >= len(TRAINERS)
    for package, version in tested:
        assert re.search(rf"^{re.escape(package)}=={re.escape(version)}$", pins, re.MULTILINE), (package, version)
