"""Every example that a reader can copy runs: the README's blocks and the docstrings'."""

import doctest
import importlib.util
import pkgutil
import re
from pathlib import Path

import pytest
import torch

import gradclip
from effort import only_long
from watching import python

ROOT = Path(__file__).parents[2]
TRAINERS = ("fastai", "ignite", "keras", "skorch", "stable_baselines3")
LACKING = [name for name in ("triton", *TRAINERS) if importlib.util.find_spec(name) is None]
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(gradclip.__path__, "gradclip.")
    if not module.name.endswith("__main__") and not any(name in module.name for name in LACKING)
)


def blocks_of(page):
    return re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), flags=re.M | re.S)


def test_the_readme_runs_from_its_first_block_to_its_last(tmp_path):
    script = tmp_path / "readme.py"
    script.write_text("\n".join(blocks_of("README.md")))
    done = python("readme.py", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "clipped, norm" in done.stdout
    assert "25 of 25 steps were clipped" in done.stdout
    assert "all tensors together: an L2 norm above 100 is answered by skipping the step" in done.stdout


def test_the_line_printed_in_the_readme_has_the_form_of_the_real_one():
    shown = re.search(r"# (<step .*>)", (ROOT / "README.md").read_text()).group(1)
    weight = torch.nn.Parameter(torch.zeros(2))
    weight.grad = torch.tensor([3.0, 4.0])
    real = repr(gradclip.torch.Clipper(gradclip.ClipGradByGlobalNorm(1.0)).clip_([weight]))

    def form(line):
        return re.sub(r"[\d.]+(e-?\d+)?", "N", line)

    assert form(shown) == form(real)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=only_long) if name == "gradclip.testing" else name for name in MODULES]
)
def test_the_examples_in_the_docstrings_give_what_they_say(name):
    module = importlib.import_module(name)
    names = {**vars(gradclip), "torch": torch, "gradclip": gradclip, **vars(module)}
    result = doctest.testmod(module, globs=names, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0


def test_every_recipe_has_an_example_a_formula_and_a_source():
    from gradclip.rules import recipes

    for name in ("ClipGradByValue", "ClipGradByNorm", "ClipGradByGlobalNorm"):
        text = getattr(recipes, name).__doc__
        assert ">>>" in text
        assert "Formula" in text
        assert "Source" in text
