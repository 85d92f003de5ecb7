"""The files in `tests/typed` have every public name as a user writes it, and mypy finds nothing wrong in them."""

import ast
import importlib.util
import re
from functools import cache
from pathlib import Path

import pytest
from mypy import api

import gradclip
import gradclip.optax
import gradclip.paddle
import gradclip.report
import gradclip.telemetry
import gradclip.testing
import gradclip.torch
from structure import ROOT, SOURCE

TYPED = ROOT / "tests" / "typed"
PUBLIC = [
    gradclip,
    gradclip.torch,
    gradclip.paddle,
    gradclip.optax,
    gradclip.telemetry,
    gradclip.report,
    gradclip.testing,
]
OF_TRAINERS = {
    "fastai": ["Clip"],
    "ignite": ["Clip"],
    "keras": ["ClippedOptimizer", "LastStep", "Log", "clip"],
    "lightning": ["Clip"],
    "skorch": ["Clip"],
    "stable_baselines3": ["Clip"],
    "timm": ["adaptive_clip_grad", "dispatch_clip_grad"],
    "transformers": ["Clip"],
}
"""The public names of doors whose packages may not be here."""


def names_in(text):
    """The names of gradclip that Python source uses by their full names."""
    nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Attribute)]
    return {name for node in nodes if (name := ast.unparse(node)).startswith("gradclip.")}


@cache
def used():
    return {name for path in TYPED.glob("*.py") for name in names_in(path.read_text())}


def mypy(*paths):
    """What mypy says, with the cache of `make check` and what the project says of packages without types."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MYPYPATH", str(SOURCE))
        config = ["--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(ROOT / ".mypy_cache")]
        said, errors, _ = api.run([*config, *map(str, paths)])
    assert not errors
    return said


@pytest.mark.parametrize("module", PUBLIC, ids=lambda module: module.__name__)
def test_every_public_name_is_used_in_a_file_that_is_checked(module):
    assert module.__all__
    assert {f"{module.__name__}.{name}" for name in module.__all__} <= used()


@pytest.mark.parametrize("door", OF_TRAINERS)
def test_every_public_name_of_a_trainers_door_is_used_in_a_file_that_is_checked(door):
    path = Path(importlib.util.find_spec("gradclip").origin).parent / door
    text = (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text()
    public = re.findall(r"^__all__ = \[(.*)\]$", text, re.MULTILINE)
    assert not public or re.findall(r'"(\w+)"', public[0]) == OF_TRAINERS[door]
    assert {f"gradclip.{door}.{name}" for name in OF_TRAINERS[door]} <= used()


def test_there_is_no_other_door_of_a_trainer():
    inner = {"__init__", "__main__", "clipper", "errors"}
    assert {path.stem for path in (SOURCE / "gradclip").glob("*.py")} - inner == set(OF_TRAINERS) - {"keras"}


def test_mypy_finds_nothing_in_them(tmp_path):
    wrong = tmp_path / "wrong.py"
    wrong.write_text("import gradclip\nnorm: str = gradclip.ClipGradByNorm(1.0).norm\n")
    said = mypy(*TYPED.glob("*.py"), wrong)
    assert [line for line in said.splitlines() if "error:" in line and "wrong.py" not in line] == []
    assert "wrong.py:2: error:" in said
