"""The pages that compare frameworks with gradclip say what they do now, and gradclip is right on every input."""

from __future__ import annotations

import pytest

import make_tables as table
from effort import only_long

pytestmark = only_long
PYTORCH, PADDLE, OPTAX = table.PAGES
MADE_WITH = {"PyTorch": "2.13", "Paddle": "3.3", "Optax": "0.2"}


@pytest.fixture(scope="module")
def found():
    return {
        page.framework: {one.title: (theirs, ours) for one, theirs, ours in table.rows(page)} for page in table.PAGES
    }


@pytest.mark.skipif(
    any(page.version != MADE_WITH[page.framework] for page in table.PAGES), reason="the pages are about other versions"
)
def test_the_pages_are_up_to_date(capsys) -> None:
    assert table.main(["--check"]) == 0, capsys.readouterr().out


def test_check_sees_a_changed_page(tmp_path, monkeypatch, found) -> None:
    (tmp_path / "docs").mkdir()
    monkeypatch.setattr(table, "README", tmp_path / "none.md")
    monkeypatch.setattr(table, "ROOT", tmp_path)
    monkeypatch.setattr(table, "rows", lambda page: [(one, *found[page.framework][one.title]) for one in page.inputs])
    assert table.main(["--check"]) == 1
    assert table.main([]) == 0
    assert table.main(["--check"]) == 0
    page = tmp_path / "docs" / PADDLE.file
    page.write_text(page.read_text().replace("gradients kept", "gradients lost", 1))
    assert table.main(["--check"]) == 1


@pytest.mark.parametrize(
    ("framework", "title", "expected"),
    [
        ("PyTorch", "fp16 `[6e4, 6e4, 6e4, 6e4]`", "norm 1.2e+05; gradients [0.5, 0.5, 0.5, 0.5]"),
        ("PyTorch", "fp32 `[1e25, 1e25]`", "norm 1.414e+25; gradients [0.7071, 0.7071]"),
        ("PyTorch", "fp32, 5e7 standard normal elements", "norm right to 1e-6; norm after clipping right to 1e-6"),
        ("PyTorch", "`[3, 4]`, the parameter given twice", "norm 5; gradients [0.6, 0.8]"),
        ("PyTorch", "`[9e-7]`, limit 1e-6", "norm 9e-07; gradients kept"),
        ("PyTorch", "`[NaN, 2]` and `[3]`", "norm nan; gradients kept"),
        ("PyTorch", "`[inf, 2]` and `[3]`", "norm inf; gradients kept"),
        ("Paddle", "`[3]` and `[4]` in two parameter groups, global norm", "updates [0.6], [0.8]"),
        ("Paddle", "`[3, 4]`, by value, static graph", "update [1, 1]"),
        ("Paddle", "`[3, 4]`, global norm, legacy static graph", "update [0.6, 0.8]"),
        ("Paddle", "`[1e25, 1e25]`, global norm", "gradients [0.7071, 0.7071]"),
        ("Paddle", "`[3, 4]`, `clip_grad_norm_` of a generator", "norm 5; gradients [0.6, 0.8]"),
        ("Optax", "fp32 `[1e25, 1e25]`", "norm 1.414e+25; gradients [0.7071, 0.7071]"),
        ("Optax", "the slope of clipping at `[0, 0]`", "slope [1.0, 1.0]"),
        (
            "Optax",
            "bf16, a leaf of 1e6 and 100 of 2000 standard normal elements",
            "norm right to 1e-6; norm after clipping 1",
        ),
    ],
)
def test_gradclip_is_right(found, framework: str, title: str, expected: str) -> None:
    assert found[framework][title][1] == expected


def test_the_readme_gets_a_telling_row_of_each_framework(found) -> None:
    rows = {page.framework: [(one, *found[page.framework][one.title]) for one in page.inputs] for page in table.PAGES}
    lines = table.readme_rows(rows).splitlines()
    assert len(lines) == 2 + len(table.PAGES)
    assert lines[3].endswith("two parameter groups, global norm | Paddle | updates [1], [1] | updates [0.6], [0.8] |")
    begin, end = table.BEGIN, table.END
    assert table.filled(f"before\n{begin}\nold\n{end}\nafter\n", "new") == f"before\n{begin}\nnew\n{end}\nafter\n"
    assert table.filled("no markers", "new") == "no markers"


@pytest.mark.parametrize("page", table.PAGES, ids=lambda page: page.framework)
def test_every_row_says_which_is_right(page) -> None:
    for one in page.inputs:
        assert one.why.startswith(("gradclip", "both", page.framework)), one.title
        assert len(one.why.split()) <= 11, one.why
