"""The gradients of a step go through the files from top to bottom, as ARCHITECTURE.md lists them."""

import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch

import gradclip
from gradclip import ClipGradByGlobalNorm, ClipGradByNorm, ClipGradByValue, Rules, SkipStep, ZClip
from gradclip.torch import Clipper

PACKAGE = Path(gradclip.__file__).parent
DATA = {"part.py", "result.py", "policy.py", "checkpoint.py"}
"""What the stages hand on, and no stage."""

ORDER = ["clipper.py", "run.py", "gradients.py", "layout.py", "measure.py", "decide.py", "respond.py", "write.py"]
RULES = [
    ClipGradByGlobalNorm(1.0),
    ClipGradByNorm(1.0),
    ClipGradByValue(1.0),
    Rules({"*": ClipGradByGlobalNorm(1.0)}),
    gradclip.Rule(response=SkipStep()),
]


def walk(rule, steps=2):
    """The files of the clipper and of the step in which a function is called, in the order of the calls of a step."""
    weights = [torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.zeros(2, 3))]
    clipper, files = Clipper(rule), []

    def note(frame, event, argument):
        path = Path(frame.f_code.co_filename)
        own = path.parent == PACKAGE / "step" or path == PACKAGE / "clipper.py"
        named = not frame.f_code.co_name.startswith("<") and not frame.f_code.co_name.startswith("__")
        named = named and not frame.f_code.co_qualname.startswith(("Gradients.", "_some_of"))
        if event == "call" and own and named and path.name not in DATA and files[-1:] != [path.name]:
            files.append(path.name)

    for step in range(steps):
        for weight in weights:
            weight.grad = torch.ones_like(weight)
        if step == steps - 1:  # the first compiles kernels, which takes a minute if each call is noted
            sys.setprofile(note)
        try:
            clipper.clip_(weights)
        finally:
            sys.setprofile(None)
    return files


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_a_step_is_walked_from_top_to_bottom(rule):
    files = walk(rule)
    assert files.pop() == "clipper.py"  # which tells what happened
    assert set(files) <= set(ORDER), files
    gathers_again = isinstance(rule, Rules)  # those that a pattern is for
    assert len([file for place, file in enumerate(files) if file in files[:place]]) <= 3 + gathers_again, files
    places = [ORDER.index(file) for file in files]
    assert sum(later < earlier for earlier, later in pairwise(places)) <= 1 + gathers_again, files


def test_a_rule_that_adapts_comes_to_its_memory_after_it_was_written():
    files = walk(ZClip())
    assert files.index("decide.py") < files.index("respond.py") < files.index("write.py")
    assert files.index("write.py") < len(files) - 1 - files[::-1].index("memory.py")
