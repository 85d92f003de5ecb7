"""A method of next year is one function in one file; everything that tells of methods knows it from there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src"
METHOD = '''

def MedianClip(window: int = 5) -> Rule:
    """Rescale the whole gradient to the median of its last norms.

    Formula: `t = median of the last window norms`, `out = g * min(1, t / n)` with n the global L2 norm.
    Source: nobody yet.
    Differs from the original: (1) there is none.

    >>> MedianClip(5)
    all tensors together: an L2 norm above the 50 % quantile of the last 5 norms is rescaled to it
    """
    return Rule(Global(), L2(), History(Window(window), Quantile(0.5)), Rescale())


__all__ += ["MedianClip"]
'''

KNOWN = """
import doctest, json
import gradclip
from gradclip.rules import recipes
from gradclip.rules.catalogue import method_called
from gradclip.rules.text import rule_from_text

method = method_called("median-clip")
assert method.rule == gradclip.MedianClip(5) == rule_from_text("medianclip:window=5")
assert method.law == "Rescale the whole gradient to the median of its last norms."
assert method.source == "nobody yet."
assert method.differences == ["there is none"]
assert method.signature == "MedianClip(window=5)"
assert method.state == "7 numbers for all tensors together"
assert gradclip.from_dict(json.loads(json.dumps(method.rule.to_dict()))) == method.rule
assert doctest.testmod(recipes.adaptive, globs=vars(gradclip)).failed == 0
"""

CLIPS = """
import numpy as np, torch
import gradclip, gradclip.torch
from gradclip.testing import REFERENCE, check_rule

rule = gradclip.MedianClip(3)
check_rule(rule)
clipper, ours = gradclip.torch.Clipper(rule, engine="torch"), gradclip.torch.clipper.Clipper(rule)
weight = torch.nn.Parameter(torch.zeros(2))
for norm, expected in [(2.0, 2.0), (4.0, 2.0), (8.0, 3.0), (1.0, 1.0), (6.0, 4.0)]:
    weight.grad = torch.tensor([0.0, norm])
    clipper.clip_([weight])
    by_reference = REFERENCE.clip(ours, [np.array([0.0, norm])]).after[0]
    assert weight.grad.tolist() == by_reference.tolist() == [0.0, expected], (norm, weight.grad, by_reference)
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The source of gradclip with one more function."""
    copy = tmp_path_factory.mktemp("next_year")
    shutil.copytree(SOURCE / "gradclip", copy / "gradclip", ignore=shutil.ignore_patterns("__pycache__"))
    with (copy / "gradclip" / "rules" / "recipes" / "adaptive.py").open("a") as file:
        file.write(METHOD)
    return copy


def said(source, *arguments):
    """What Python prints with that source."""
    environment = {**os.environ, "PYTHONPATH": str(source)}
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_has_a_name_a_text_a_dict_and_a_place_in_the_catalogue(source):
    said(source, "-c", KNOWN)


def test_the_command_explains_it(source):
    explained = said(source, "-m", "gradclip", "methods", "MedianClip")
    assert "gradclip.MedianClip(window=5)" in explained
    assert "nobody yet." in explained


def test_it_keeps_the_laws_and_clips_on_two_engines(source):
    """The median of 2, of 2 and 4, of 2, 4 and 8, and of 4, 8 and 1; the first step has no threshold."""
    said(source, "-c", CLIPS)


def test_without_the_function_there_is_no_such_method(source):
    with pytest.raises(AssertionError, match="no method is called 'median-clip'"):
        said(SOURCE, "-c", KNOWN.replace("gradclip.MedianClip(5)", "method.rule"))
