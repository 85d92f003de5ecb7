"""The engine of PyTorch's operations beside the laws: how many it takes, which is what an accelerator is waited for.

The engine that serves accelerators runs on the CPU here. What is counted is what PyTorch dispatches: a launch each, or
several where it has a kernel for some of the tensors at a time.
"""

from __future__ import annotations

import sys
from unittest import mock

import pytest
import torch

import gradclip
import gradclip.torch.functional as drop_ins
from gradclip.engines import torch_stacks
from gradclip.engines.torch import DEVICE
from gradclip.rules.norm import L1, L2, RMS, Linf, Lp
from gradclip.rules.rule import AnyRule, Rule
from gradclip.rules.scope import Element, Global, Row, Tensor
from gradclip.rules.threshold import Constant
from gradclip.step.policy import EVERY
from gradclip.torch.clipper import Clipper
from planting import Plant
from torch_tensors import Counting

SHAPES = [(16, 8), (8,), (4, 2, 3, 3), ()]


def parameters(many: int, dtype: torch.dtype = torch.float32) -> list[torch.nn.Parameter]:
    generator, found = torch.Generator().manual_seed(0), []
    for place in range(many):
        shape = SHAPES[place % len(SHAPES)]
        found.append(torch.nn.Parameter(torch.randn(shape, generator=generator).to(dtype)))
        found[-1].grad = torch.randn(shape, generator=generator).to(dtype)
    return found


def operations(clip, many: int, dtype: torch.dtype = torch.float32) -> int:
    """How many a clip takes, at its second call: constants are copied to the device at the first."""
    clip(parameters(many, dtype))
    given = parameters(many, dtype)
    with Counting() as counting:
        clip(given)
    return len(counting.names)


@pytest.fixture
def on_a_device():
    with mock.patch.object(drop_ins, "engine_for", return_value=DEVICE):
        yield


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_clipping_by_hand_takes_ten_operations_more_than_pytorch(on_a_device, dtype, monkeypatch):
    """It takes 8, none of which knows of an overflow, of NaN, or of how a coefficient is rounded.

    Tensors of no axis are left out: the first of them costs one operation more.
    """
    monkeypatch.setattr(sys.modules[__name__], "SHAPES", SHAPES[:-1])

    def peer(given):
        torch.nn.utils.clip_grad_norm_(given, 0.1)

    def own(given):
        drop_ins.clip_grad_norm_(given, 0.1)

    assert operations(own, 200, dtype) <= operations(peer, 200, dtype) + 10
    assert operations(own, 20, dtype) == operations(own, 200, dtype)


def test_clipping_by_value_by_hand_takes_as_many_as_pytorch(on_a_device):
    for many in (20, 200):
        assert operations(lambda given: drop_ins.clip_grad_value_(given, 0.1), many) == 2


NORMS = [L1(), L2(), Linf(), RMS(), Lp(3.0)]
RULES: dict[str, AnyRule] = {
    **{f"{scope!r}, {norm!r}": Rule(scope, norm, Constant(0.1))
       for scope in (Global(), Tensor(), Row(), Row(-1)) for norm in NORMS},
    "each element": gradclip.ClipGradByValue(0.1),
    "each element, bent": Rule(Element(), Linf(), Constant(0.1), gradclip.Smooth()),
    "units of weights": gradclip.AGC(0.01),
    "LARC": gradclip.LARC(),
    "follows the norm": gradclip.ZClip(),
    "follows each norm": gradclip.AdaGC(),
    "values, then the norm": gradclip.ClipGradByValue(0.5) >> gradclip.ClipGradByGlobalNorm(0.1),
}  # fmt: skip


def their_number_does_not_grow(rule: AnyRule, on_nonfinite: str = "keep", dtype: torch.dtype = torch.float32) -> None:
    counts = []
    for many in (20, 200):
        clipper = Clipper(rule, on_nonfinite=on_nonfinite)
        clipper.engine_for = lambda gradients: DEVICE  # type: ignore[method-assign]
        counts.append(operations(lambda given, clipper=clipper: clipper.clip_(given), many, dtype))
    assert counts[0] == counts[1]


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_the_number_of_operations_does_not_grow_with_the_tensors(rule):
    their_number_does_not_grow(rule)


@pytest.mark.parametrize("policy", [policy.name for policy in EVERY if not policy.stops])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_nor_for_other_policies_and_dtypes(policy, dtype):
    for rule in (RULES["each element"], RULES["units of weights"], gradclip.ClipGradByGlobalNorm(1.0)):
        their_number_does_not_grow(rule, policy, dtype)


def test_the_count_is_red_for_an_operation_for_each_tensor():
    Plant(
        "each tensor is a stack of its own",
        their_number_does_not_grow,
        (gradclip.AGC(0.01),),
        torch_stacks,
        "alike",
        lambda keys: [[place] for place, _ in enumerate(keys)],
    ).check()


def test_what_is_put_side_by_side_has_a_bound(monkeypatch):
    """A tensor that is larger is taken where it lies."""
    monkeypatch.setattr(torch_stacks, "MOST_BYTES", 1000)
    tensors = [torch.zeros(100), torch.ones(100), torch.zeros(100), torch.zeros(300)]
    found = list(torch_stacks.stacks(tensors))
    assert [stack.places for stack in found] == [[0, 1], [2], [3]]
    assert [stack.tensor.data_ptr() == tensors[stack.places[0]].data_ptr() for stack in found] == [False, True, True]
