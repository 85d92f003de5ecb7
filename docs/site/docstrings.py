"""Docstrings as Markdown: examples become blocks of code, names that the reference has become links to them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from griffe import Alias, Extension, Object

PAGES = Path(__file__).parents[1] / "api"
SHOWN = re.compile(r"^::: (\S+)", re.MULTILINE)
EXAMPLE = re.compile(r"(?:^[ ]*>>> .*\n?(?:^[ ]*(?!>>> )\S.*\n?|^[ ]*>>> .*\n?)*)+", re.MULTILINE)
NAME = re.compile(r"(?<!`)`(gradclip(?:\.\w+)+)`(?!`)")
RECIPES = ("fixed", "weights", "adaptive", "elements")


def documented() -> set[str]:
    """The names that pages of the reference show."""
    return {name for page in PAGES.glob("*.md") for name in SHOWN.findall(page.read_text(encoding="utf-8"))}


def as_markdown(text: str, names: set[str]) -> str:
    """A docstring in which Markdown finds what it can show."""
    text = NAME.sub(lambda found: f"[`{found[1]}`][{found[1]}]" if found[1] in names else found[0], text)
    return EXAMPLE.sub(lambda found: f"```pycon\n{found[0].rstrip()}\n```\n", text)


class Docstrings(Extension):
    """Rewrites what Griffe has read."""

    def __init__(self) -> None:
        self._names = documented()

    def on_object(self, *, obj: Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value, self._names)

    def on_package(self, *, pkg: Object, **_: Any) -> None:
        """The package has the names of methods from a list that is made when it is imported: put them in by hand."""
        for module in RECIPES:
            for name in pkg["rules.recipes"][module].exports or ():
                path = f"gradclip.rules.recipes.{module}.{name}"
                pkg.set_member(str(name), Alias(str(name), path, parent=pkg))
