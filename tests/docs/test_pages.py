"""What the pages say can be typed as it stands, page by page, in a process of its own."""

from __future__ import annotations

import re

import pytest

import make_concepts
import make_tutorial
from effort import only_long
from pages import DOCS, blocks_in, is_of_trainers, pages_to_type, script_of, typed
from structure import ROOT
from watching import python

PAGES = [page for page in pages_to_type() if not is_of_trainers(page)]
FRAGMENTS = {"methods.md", "sharded.md", "trainers.md"}
"""They show signatures, and parts of what stands whole elsewhere: in `docs/trainers` and in `examples`."""
LATER = {"migration/optax.md", "migration/paddle.md"}
"""What they show of gradclip the guides show, too, and to import their frameworks takes seconds: for the long form."""
SAYS = {
    "guide/pytorch.md": ["<step 2: clipped, norm"],
    "guide/telemetry.md": ["25 of 25 steps were clipped"],
    "guide/rules.md": ["all tensors together: an L2 norm above 100 is answered by skipping the step"],
}
"""What some of them have to print."""


def name_of(page):
    """The page as the menu calls it."""
    return str(page.relative_to(DOCS))


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=only_long if name_of(page) in LATER else ())
        for page in PAGES
        if page.name not in {*FRAGMENTS, "tutorial.md"}
    ],
    ids=name_of,
)
def test_a_page_can_be_typed_as_it_stands(page, tmp_path):
    done = typed(page, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    for said in SAYS.get(name_of(page), []):
        assert said in done.stdout


def test_a_block_that_fails_is_told_with_the_line_of_the_page(tmp_path):
    page = tmp_path / "wrong.md"
    page.write_text("# Wrong\n\n```python\nx = 1\n```\n\ntext\n\n```python\nx / 0\n```\n")
    assert script_of(page).splitlines()[9] == "x / 0"
    done = typed(page, tmp_path)
    assert done.returncode == 1
    assert "line 10" in done.stderr
    assert "ZeroDivisionError" in done.stderr


def test_a_page_that_warns_fails(tmp_path):
    page = tmp_path / "warns.md"
    page.write_text(
        "# Warns\n\n```python\nfrom gradclip.torch import clip_grad_norm_\n\nclip_grad_norm_([], 1.0)\n```\n"
    )
    assert "GradclipWarning" in typed(page, tmp_path).stderr


def test_a_page_that_lacks_an_import_fails(tmp_path):
    page = tmp_path / "lacks.md"
    page.write_text("# Lacks\n\n```python\nimport gradclip\n\ngradclip.torch.Clipper\n```\n")
    assert "has no attribute 'torch'" in typed(page, tmp_path).stderr


def test_the_tutorial_prints_and_draws_what_it_shows():
    done = python(str(DOCS / "make_tutorial.py"), "--check", folder=DOCS, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]


def test_a_tutorial_that_shows_something_else_is_found(tmp_path, monkeypatch, capsys):
    page = tmp_path / "tutorial.md"
    monkeypatch.setattr(make_tutorial, "PAGE", page)
    monkeypatch.setattr(make_tutorial, "PICTURES", tmp_path)
    page.write_text("```python\nprint('loss', 1.5)\n```\n\n```text\nloss 1.25\n```\n")
    monkeypatch.setattr(make_tutorial.os, "listdir", lambda folder: [])
    assert make_tutorial.main(["--check"]) == 0
    page.write_text(page.read_text().replace("loss 1.25", "norm 1.25"))
    assert make_tutorial.main(["--check"]) == 1
    assert make_tutorial.main([]) == 0
    assert "loss 1.5" in page.read_text()


def test_every_picture_of_the_concepts_is_drawn_and_shown(monkeypatch):
    assert make_concepts.missing() == []
    monkeypatch.delitem(make_concepts.PICTURES, "law.png")
    assert make_concepts.missing() == ["law.png"]


def test_fragments_are_still_there_and_still_fragments():
    for name in FRAGMENTS:
        assert blocks_in(DOCS / name), name


def form(line):
    """The line with N for each number."""
    return re.sub(r"[\d.]+(e-?\d+)?", "N", line)


@pytest.mark.parametrize("page", ["README.md", "docs/guide/pytorch.md"])
def test_the_line_that_is_shown_has_the_form_of_the_real_one(page):
    import torch

    import gradclip

    shown = re.search(r"# (<step .*>)", (ROOT / page).read_text())
    weight = torch.nn.Parameter(torch.zeros(2))
    weight.grad = torch.tensor([3.0, 4.0])
    real = repr(gradclip.torch.Clipper(gradclip.ClipGradByGlobalNorm(1.0)).clip_([weight]))
    assert form(shown.group(1)) == form(real)
