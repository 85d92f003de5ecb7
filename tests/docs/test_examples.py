"""Every example in a docstring runs."""

import doctest
import importlib.util
import pkgutil

import pytest
import torch

import gradclip
from effort import only_long

TRAINERS = ("fastai", "ignite", "keras", "skorch", "stable_baselines3")
LACKING = [name for name in ("triton", *TRAINERS) if importlib.util.find_spec(name) is None]
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(gradclip.__path__, "gradclip.")
    if not module.name.endswith("__main__") and not any(name in module.name for name in LACKING)
)


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
