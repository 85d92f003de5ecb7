"""The pages on trainers: what stands there to type runs as it stands, from the first block to the last."""

from __future__ import annotations

import importlib.util
import re

import pytest

from trainers import small
from watching import python

PAGES = {
    "accelerate": "accelerate",
    "fastai": "fastai",
    "ignite": "ignite",
    "skorch": "skorch",
    "stable-baselines3": "stable_baselines3",
    "timm": "torch",
}
"""Of each page the package that it needs."""


def page(name):
    return (small.ROOT / "docs" / "trainers" / f"{name}.md").read_text()


@pytest.mark.parametrize("name", PAGES)
def test_what_is_to_type_runs_and_prints_what_it_says(name, tmp_path):
    if importlib.util.find_spec(PAGES[name]) is None:
        pytest.skip(f"{PAGES[name]} is not installed")
    script = tmp_path / "typed.py"
    script.write_text("\n".join(re.findall(r"^```python\n(.*?)^```", page(name), flags=re.M | re.S)))
    done = python("typed.py", folder=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "GradclipWarning" not in done.stderr
    if name == "timm":
        assert done.stdout.startswith("tensor([0.0100, 0.0100]")
    elif name in ("accelerate", "fastai", "ignite", "stable-baselines3"):
        assert "<step " in done.stdout


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_short(name):
    assert page(name).count("\n") <= 60
    assert max(map(len, page(name).splitlines())) <= 120
