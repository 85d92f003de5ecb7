"""The reference has every public name, and each has an example; that the examples run is tested beside this."""

from __future__ import annotations

import ast
import importlib
import re

import pytest

import gradclip
from pages import DOCS, OF_TRAINERS
from structure import SOURCE

SHOWN = re.compile(r"^::: (\S+)$", re.MULTILINE)
OF_THE_PACKAGE = {"rules", "errors"}
"""Their names are those of `gradclip` itself."""
BESIDE = {"gradclip.clipper.Clipper", "gradclip.step.result.Result", "gradclip.step.result.Segment"}
"""Nobody imports these: they say what every clipper has, and what it gives."""
NO_CODE = {
    "gradclip.AnyRule",
    "gradclip.telemetry.Sink",
    "gradclip.testing.Law",
    "gradclip.testing.REFERENCE",
    "gradclip.testing.laws",
}
"""Names of types, of one bench and of a module: they say what they are, in a sentence below them."""


def listed(file) -> list[str]:
    """The names in the `__all__` of a file, which is not imported: its package may be missing here."""
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    return []


def public_names() -> list[str]:
    """Every public name: those of the package, and those of each module in it that says which are public."""
    found = [f"gradclip.{name}" for name in gradclip.__all__]
    for file in sorted([*(SOURCE / "gradclip").glob("*.py"), *(SOURCE / "gradclip").glob("*/__init__.py")]):
        module = file.parent.name if file.stem == "__init__" else file.stem
        if module != "gradclip" and module not in OF_THE_PACKAGE:
            found += [f"gradclip.{module}.{name}" for name in listed(file)]
    return found


def shown(folder=DOCS / "api") -> list[str]:
    """The names that the pages of the reference show."""
    return [name for page in sorted(folder.glob("*.md")) for name in SHOWN.findall(page.read_text(encoding="utf-8"))]


def lacking(names, pages) -> list[str]:
    return sorted(set(names) - set(pages))


def test_every_public_name_is_in_the_reference_once():
    assert lacking(public_names(), shown()) == []
    assert len(shown()) == len(set(shown()))


def test_nothing_else_is_in_it():
    assert set(shown()) - set(public_names()) == BESIDE


def test_a_name_that_is_missing_is_found(tmp_path):
    (tmp_path / "page.md").write_text("# Page\n\n::: gradclip.ZClip\n    options: {heading_level: 3}\n")
    assert lacking(["gradclip.ZClip", "gradclip.AGC"], shown(tmp_path)) == ["gradclip.AGC"]


def test_doors_of_all_kinds_are_public():
    modules = {name.rpartition(".")[0] for name in public_names()}
    assert {"gradclip", "gradclip.keras", "gradclip.optax", "gradclip.paddle", "gradclip.timm"} < modules
    assert len(modules) >= 17


def docstring_of(name: str) -> str:
    """The docstring of a public name; of a package that is missing here it is read from the sources."""
    module, _, last = name.rpartition(".")
    if module.split(".")[1:2] and module.split(".")[1] in OF_TRAINERS:
        return docstring_in_sources(module, last)
    return getattr(importlib.import_module(module), last).__doc__ or ""


def docstring_in_sources(module: str, last: str) -> str:
    file = SOURCE / module.replace(".", "/")
    files = [file.with_suffix(".py")] if file.with_suffix(".py").exists() else sorted(file.glob("*.py"))
    nodes = [node for each in files for node in ast.parse(each.read_text(encoding="utf-8")).body]
    found = [node for node in nodes if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == last]
    return ast.get_docstring(found[0]) or ""


@pytest.mark.parametrize("name", sorted(set(public_names()) - NO_CODE))
def test_a_public_name_has_an_example(name):
    assert ">>> " in docstring_of(name)
