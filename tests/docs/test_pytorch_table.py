"""The page that compares PyTorch with gradclip says what they do now, and gradclip is right on every input of it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

DOCS = Path(__file__).resolve().parents[2] / "docs"
sys.path.insert(0, str(DOCS))

import make_pytorch_table as table  # noqa: E402


@pytest.fixture(scope="module")
def found():
    return {one.title: (theirs, ours) for one, theirs, ours in table.rows()}


@pytest.mark.skipif(not torch.__version__.startswith("2.13."), reason="the page is about PyTorch 2.13")
def test_the_page_is_up_to_date(capsys) -> None:
    assert table.main(["--check"]) == 0, capsys.readouterr().out


def test_check_sees_a_changed_page(tmp_path, monkeypatch, found) -> None:
    page = tmp_path / "page.md"
    monkeypatch.setattr(table, "PAGE", page)
    monkeypatch.setattr(table, "README", tmp_path / "none.md")
    monkeypatch.setattr(table, "ROOT", tmp_path)
    monkeypatch.setattr(table, "rows", lambda: [(one, *found[one.title]) for one in table.INPUTS])
    assert table.main(["--check"]) == 1
    assert table.main([]) == 0
    assert table.main(["--check"]) == 0
    page.write_text(page.read_text().replace("gradients kept", "gradients lost", 1))
    assert table.main(["--check"]) == 1


@pytest.mark.parametrize(
    ("title", "expected"),
    [
        ("fp16 `[6e4, 6e4, 6e4, 6e4]`", "norm 1.2e+05; gradients [0.5, 0.5, 0.5, 0.5]"),
        ("fp32 `[1e25, 1e25]`", "norm 1.414e+25; gradients [0.7071, 0.7071]"),
        ("fp32, 5e7 standard normal elements", "norm right to 1e-6; norm after clipping right to 1e-6"),
        ("`[3, 4]`, the parameter given twice", "norm 5; gradients [0.6, 0.8]"),
        ("`[9e-7]`, limit 1e-6", "norm 9e-07; gradients kept"),
        ("`[NaN, 2]` and `[3]`", "norm nan; gradients kept"),
        ("`[inf, 2]` and `[3]`", "norm inf; gradients kept"),
    ],
)
def test_gradclip_is_right(found, title: str, expected: str) -> None:
    assert found[title][1] == expected


def test_the_readme_gets_the_telling_rows_between_its_markers() -> None:
    readme = f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n"
    assert table.filled(readme, "new") == f"before\n{table.BEGIN}\nnew\n{table.END}\nafter\n"
    assert table.filled("no markers", "new") == "no markers"
    assert sum(one.telling for one in table.INPUTS) == 8


def test_every_row_says_which_is_right() -> None:
    for one in table.INPUTS:
        assert one.why.startswith(("gradclip", "both", "PyTorch")), one.title
        assert len(one.why.split()) <= 11, one.why
