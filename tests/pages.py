"""The pages of `docs`: what a reader can type of one, and typing it, in a process of its own."""

from __future__ import annotations

import re
from pathlib import Path
from subprocess import CompletedProcess

from structure import ROOT
from watching import python

DOCS = ROOT / "docs"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
IMPORT = re.compile(r"^(?:import|from) (\w+)", re.MULTILINE)
FRESH = "import sys; [sys.modules.pop(name) for name in list(sys.modules) if name.partition('.')[0] == 'gradclip']"
"""The fork in which a page is typed has imported parts of gradclip that a reader has to import."""
STRICT = "import warnings, gradclip.errors; warnings.simplefilter('error', gradclip.errors.GradclipWarning)"
OF_TRAINERS = {"fastai", "ignite", "keras", "skorch", "stable_baselines3", "timm"}
"""Packages that the environment of `make test-trainers` has and that of `make test` has not."""


def blocks_in(page: Path) -> list[str]:
    """The Python of a page, block by block."""
    return BLOCK.findall(page.read_text(encoding="utf-8"))


def pages_to_type(docs: Path = DOCS) -> list[Path]:
    """Every page of which Python can be typed; decisions quote code that is no more."""
    return [page for page in sorted(docs.rglob("*.md")) if page.parent.name != "decisions" and blocks_in(page)]


def is_of_trainers(page: Path) -> bool:
    """Whether the page is for the environment that has the trainers."""
    return page.parent.name == "trainers" or any(OF_TRAINERS & set(IMPORT.findall(block)) for block in blocks_in(page))


def script_of(page: Path) -> str:
    """All blocks of a page as one script, in which each line has the number that it has in the page.

    It begins as in a new Python. A warning of gradclip ends it: what a page shows does not warn.
    """
    text, lines = page.read_text(encoding="utf-8"), [f"{FRESH}; {STRICT}"]
    for found in BLOCK.finditer(text):
        begin = text.count("\n", 0, found.start(1))
        lines += [""] * (begin - len(lines)) + found.group(1).splitlines()
    return "\n".join(lines) + "\n"


def typed(page: Path, folder: Path, **environment: str) -> CompletedProcess[str]:
    """What Python answers to all blocks of a page, one after another, in an empty folder."""
    script = folder / "typed.py"
    script.write_text(script_of(page), encoding="utf-8")
    return python(script.name, folder=folder, **{"OMP_NUM_THREADS": "1", "KERAS_BACKEND": "torch", **environment})
