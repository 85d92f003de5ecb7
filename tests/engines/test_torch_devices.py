"""Gradients on several devices in one call. The laws try the numbers, on one device that is taken for two."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from benches import BENCHES
from engines.several_devices import CASES, TRAVELS
from gradclip import ClipGradByGlobalNorm, ClipGradByNorm, ClipGradByValue, Row, Rule
from gradclip.testing import laws
from gradclip.torch import Clipper
from watching import python

SCRIPT = Path(__file__).with_name("several_devices.py")


def what_went_wrong(folder: Path, *arguments: str) -> dict[str, str]:
    done = python(str(SCRIPT), *arguments, folder=folder)
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def wrong(tmp_path_factory):
    return what_went_wrong(tmp_path_factory.mktemp("devices"))


@pytest.mark.parametrize("case", CASES)
def test_each_gradient_is_clipped_where_it_is(case, wrong):
    assert case not in wrong


def test_the_cases_are_red_where_no_number_travels(tmp_path):
    """PyTorch says which operation met tensors of two devices."""
    found = what_went_wrong(tmp_path, "planted")
    assert set(TRAVELS) <= set(found)
    assert "FakeTensorDeviceMismatchError" in found["global"]


def test_a_device_may_have_no_segment_at_all():
    """The only row is that of the tensor without an axis; the other one, taken for that of another device, has none."""
    law, bench = laws.it_agrees_with_the_reference, BENCHES["torch on devices"]
    for rule in (Rule(Row()), ClipGradByNorm(0.1), ClipGradByGlobalNorm(0.1), ClipGradByValue(0.1)):
        law(bench, rule, [np.array(3.0), np.zeros((0, 2))])
        law(bench, rule, [np.zeros((0, 2)), np.array([[3.0]])])


def test_the_compiled_engine_asked_for_by_name_says_which_one_it_does_not_reach():
    here = torch.nn.Parameter(torch.zeros(2))
    here.grad = torch.tensor([3.0, 4.0])
    with FakeTensorMode():
        there = torch.nn.Parameter(torch.zeros(2, device="cuda"))
        there.grad = torch.ones(2, device="cuda")
    with pytest.raises(TypeError, match=r"parameters\[1\]' cannot be clipped: it is on cuda:0 and others on"):
        Clipper(ClipGradByGlobalNorm(1.0), engine="cpu").clip_([here, there])
    assert here.grad.tolist() == [3.0, 4.0]
