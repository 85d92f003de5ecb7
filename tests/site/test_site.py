"""The site that `make site` has built, in headless Chromium without a network; and what stops such a build."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import axe_playwright_python
import pytest

from browser import PHONE, WIDE, launched
from docs.test_reference import public_names
from structure import ROOT

SITE = ROOT / "site"
PYTHON = ROOT / ".venv-site" / "bin" / "python"
AXE = Path(axe_playwright_python.__file__).with_name("axe.min.js")
PAGES = sorted(str(page.relative_to(SITE)) for page in SITE.rglob("*.html"))
DECISIONS = [page for page in PAGES if page.startswith("decisions/")]
LOOKED_AT = [page for page in PAGES if page not in DECISIONS[3:]]
"""Decisions have no pictures and few tables: three of them stand for all."""
READ = (
    "index.html",
    "tutorial.html",
    "guide/pytorch.html",
    "migration/pytorch.html",
    "concepts/adam.html",
    "api/rules.html",
    "api/torch.html",
    "methods.html",
    "faq.html",
    "trainers.html",
)
"""Pages of each kind, which are looked through for what is hard to read."""
FETCHED = re.compile(r"<(?:script|link|img|iframe|source)\b[^>]*\b(?:src|href)=[\"']?((?:https?:)?//[^\"' >]+)")


@pytest.fixture(scope="module")
def chromium():
    with launched() as browser:
        yield browser


@pytest.fixture
def opened(chromium):
    """Opens a page without a network; what it asks of one, or complains of, fails the test when it ends."""
    contexts, complaints = [], []

    def open_page(name, scheme="light", size=WIDE):
        context = chromium.new_context(viewport=size, color_scheme=scheme, offline=True, reduced_motion="reduce")
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: complaints.append(request.url) if is_remote(request.url) else None)
        page.on("pageerror", lambda error: complaints.append(f"{name}: {error}"))
        page.goto((SITE / name).as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


def is_remote(url):
    return not url.startswith(("file:", "data:", "blob:", "about:"))


def test_there_is_a_page_for_each_page():
    pages = {str(page.relative_to(ROOT / "docs").with_suffix(".html")) for page in (ROOT / "docs").rglob("*.md")}
    assert pages <= set(PAGES)
    assert len(DECISIONS) > 40


def test_nothing_that_a_page_loads_is_somewhere_else():
    found = {name: FETCHED.findall((SITE / name).read_text(encoding="utf-8")) for name in PAGES}
    assert {name: urls for name, urls in found.items() if urls} == {}
    assert FETCHED.findall('<script src="https://unpkg.com/shim"></script>') == ["https://unpkg.com/shim"]


def test_lists_and_tables_are_such_and_no_lines_of_a_sentence():
    lost = re.compile(r"<p>(?:(?!</p>).)*\n(?:- |\d+\. |\| )", re.DOTALL)
    assert [name for name in PAGES if lost.search((SITE / name).read_text(encoding="utf-8"))] == []
    assert lost.search("<p>Common mistakes:\n- one</p>")
    assert (
        "<li>"
        in (SITE / "trainers" / "lightning.html").read_text(encoding="utf-8").partition("Common mistakes")[2][:90]
    )


def test_every_public_name_is_an_anchor_of_the_reference():
    text = "".join(page.read_text(encoding="utf-8") for page in (SITE / "api").glob("*.html"))
    anchors = set(re.findall(r'id="(gradclip[\w.]*)"', text))
    assert set(public_names()) - anchors == set()


def test_examples_of_docstrings_are_blocks_of_code():
    text = (SITE / "api" / "torch.html").read_text(encoding="utf-8")
    assert text.count('<span class="gp">&gt;&gt;&gt; </span>') > 10
    assert "<blockquote>" not in text


@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_pages_ask_for_nothing_fit_their_window_and_show_their_pictures(opened, size):
    page = opened("index.html", size=size)
    wrong = {}
    for name in LOOKED_AT:
        page.goto((SITE / name).as_uri())
        overflow = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        broken = page.evaluate("[...document.images].filter(i => !i.naturalWidth || !i.alt).map(i => i.src)")
        if overflow > 0 or broken:
            wrong[name] = overflow, broken
    assert wrong == {}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", READ)
def test_a_page_can_be_read_by_everybody(opened, name, scheme):
    page = opened(name, scheme)
    assert page.evaluate("document.body.dataset.mdColorScheme") == ("default" if scheme == "light" else "slate")
    page.add_script_tag(path=str(AXE))
    found = page.evaluate("axe.run(document, {runOnly: ['wcag2a', 'wcag2aa']})")
    assert {each["id"]: [node["html"][:200] for node in each["nodes"]][:5] for each in found["violations"]} == {}
    assert any(each["id"] == "color-contrast" for each in found["passes"])


def test_the_search_finds_without_a_network(opened):
    page = opened("guide/rules.html")
    page.click(".md-search__input")
    page.keyboard.type("consecutive skips")
    page.wait_for_selector(".md-search-result__link")
    links = page.eval_on_selector_all(".md-search-result__link", "links => links.map(link => link.href)")
    assert any("/guide/" in link for link in links)


def test_a_reader_chooses_the_other_scheme(opened):
    page = opened("index.html")
    page.click("label[title=Dark]")
    assert page.evaluate("document.body.dataset.mdColorScheme") == "slate"


@pytest.mark.parametrize(
    ("planted", "said"),
    [
        ("[gone](no-such-page.md)", "no-such-page.md"),
        ("[gone](limits.md#no-such-section)", "no-such-section"),
        ("::: gradclip.no_such_name", "no_such_name"),
        ("[gone](../src/no-such-file.py)", "no-such-file.py"),
    ],
)
def test_what_leads_nowhere_stops_the_build(tmp_path, planted, said):
    for name in ("docs", "src", "examples"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("mkdocs.yml", "CHANGELOG.md"):
        shutil.copy(ROOT / name, tmp_path)
    with (tmp_path / "docs" / "faq.md").open("a") as page:
        page.write(f"\n{planted}\n")
    done = subprocess.run(
        [PYTHON, "-m", "mkdocs", "build", "--strict"], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert done.returncode != 0
    assert said in done.stderr
