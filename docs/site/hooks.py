"""What MkDocs does with these pages beside rendering them; `mkdocs.yml` names this file.

Links that leave `docs` lead to the text of the file in the site. The menu lists the decisions, which are in a folder,
and the search leaves them out: who searches wants to use the library. A list is one, also right below a
sentence, as on GitHub.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

DOCS = Path(__file__).parents[1]
LINK = re.compile(r"(?<=\]\()(?P<target>\.\./[^)#\s]+)(?=\))")
ITEM = re.compile(r"(?:[-*]|\d+\.) ")
COPIED = "files"
FOUND_FIRST = {"cli.md", "json.md"}
"""Tables of exit codes and of fields, whose words are common ones."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put each decision into the menu, in the place of a pattern."""
    config.nav = [filled(entry, Path(config.docs_dir)) for entry in config.nav or []]
    return config


def filled(entry: Any, docs: Path) -> Any:
    """An entry of the menu with the files that its patterns match."""
    if isinstance(entry, dict):
        return {title: filled(inside, docs) for title, inside in entry.items()}
    if isinstance(entry, list):
        return [filled(inside, docs) for inside in entry]
    if "*" not in entry:
        return entry
    return sorted(str(path.relative_to(docs)) for path in docs.glob(f"{entry}.md"))


def outside(page: str, link: str) -> str | None:
    """The file to which a link of a page leads, from the root, if it is none of `docs`."""
    target = posixpath.normpath(posixpath.join(DOCS.name, posixpath.dirname(page), link))
    return None if target.startswith(f"{DOCS.name}/") else target


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Take in the files to which pages link and that are not among them."""
    pages = [(page.src_uri, link) for page in files.documentation_pages() for link in LINK.findall(page.content_string)]
    for path in sorted(filter(None, {outside(page, link) for page, link in pages})):
        text = (DOCS.parent / path).read_text(encoding="utf-8")
        files.append(File.generated(config, f"{COPIED}/{path}.txt", content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links to them lead there, and the search to what a user needs."""
    if page.file.src_uri.startswith("decisions/"):
        page.meta["search"] = {"exclude": True}
    elif page.file.src_uri in FOUND_FIRST:
        page.meta["search"] = {"boost": 4}
    up = "../" * page.file.src_uri.count("/")

    def here(found: re.Match[str]) -> str:
        path = outside(page.file.src_uri, found["target"])
        return found["target"] if path is None else f"{up}{COPIED}/{path}.txt"

    return with_lists_apart(LINK.sub(here, markdown))


def with_lists_apart(markdown: str) -> str:
    """The text with a blank line before each list: MkDocs wants one where GitHub wants none."""
    lines: list[str] = []
    fenced = False
    for line in markdown.split("\n"):
        fenced ^= line.lstrip().startswith("```")
        before = lines[-1] if lines else ""
        if not fenced and ITEM.match(line) and before.strip() and not ITEM.match(before) and before[0] not in " |>":
            lines.append("")
        lines.append(line)
    return "\n".join(lines)
