"""Parts of others: a response that is derived from ours runs in every engine, by every scope, and is read back."""

from dataclasses import dataclass
from typing import ClassVar, get_args

import numpy as np
import pytest
import torch

from gradclip import L2, ClipGradByNorm, Constant, Element, Linf, Rule, Schedule, from_dict
from gradclip.rules.response import Rescale, Response, Zero
from gradclip.step.policy import POLICIES, PolicyName
from gradclip.torch import Clipper


@dataclass(frozen=True)
class Root(Response):
    """phi(r) = 1 / sqrt(r) above the threshold."""

    power: float = 0.5
    words: ClassVar[str] = "bent to the root"

    def coefficient(self, ratio, xp):
        return 1.0 / xp.power(xp.maximum(ratio, 1.0), self.power)


@dataclass(frozen=True)
class Half(Rescale):
    """To half of the threshold: of the class of a response that engines have a kernel for, with a phi of its own."""

    words: ClassVar[str] = "rescaled to half of it"

    def coefficient(self, ratio, xp):
        return xp.where(ratio > 1.0, 0.5 / xp.maximum(ratio, 1.0), 1.0)


@dataclass(frozen=True)
class Dropped(Zero):
    """Zeros, with a class of its own."""


@pytest.mark.parametrize("engine", ["cpu", "torch"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("response", "expected"),
    [(Root(), [4.0, 1.0, -2.0, 0.0]), (Half(), [1.0, 1.0, -1.0, 0.0]), (Dropped(), [0.0, 1.0, -2.0, 0.0])],
    ids=repr,
)
def test_by_value_each_element_is_mapped_by_its_phi(engine, dtype, response, expected):
    """Threshold 2: 8 has the ratio 4. All these numbers, and their images, are exact in every dtype."""
    numbers = [8.0, 1.0, -2.0 if not isinstance(response, Half) else -4.0, 0.0]
    gradient, odd = torch.tensor(numbers, dtype=dtype), torch.tensor([[8.0, np.nan, np.inf]], dtype=dtype).T
    weights = [torch.nn.Parameter(torch.zeros_like(one)) for one in (gradient, odd)]
    weights[0].grad, weights[1].grad = gradient, odd
    clipper = Clipper(Rule(Element(), Linf(), Constant(2.0), response), engine=engine)
    with pytest.warns(UserWarning, match="non-finite"):
        clipper.clip_(weights)
    assert gradient.tolist() == expected
    assert odd[0].item() == expected[0]
    assert torch.isnan(odd[1]).all()
    assert torch.isinf(odd[2]).all()


@pytest.mark.parametrize("engine", ["cpu", "torch"])
def test_by_norm_a_response_scales_the_tensor(engine):
    weight = torch.nn.Parameter(torch.zeros(2))
    weight.grad = torch.tensor([3.0, 4.0]) * 4
    Clipper(Rule(norm=L2(), threshold=Constant(5.0), response=Root()), engine=engine).clip_([weight])
    assert weight.grad.tolist() == [6.0, 8.0]


def test_what_a_rule_with_a_part_of_others_writes_is_read_back():
    rule = Rule(response=Root(0.25))
    assert from_dict(rule.to_dict()) == rule


def test_a_part_that_nobody_imported_is_asked_for():
    data = Rule().to_dict()
    with pytest.raises(ValueError, match=r"unknown type 'Nowhere'.*once their module is imported"):
        from_dict({**data, "response": {"type": "Nowhere"}})


def test_two_parts_of_one_name_are_told_apart_by_nobody():
    first, second = (dataclass(frozen=True)(type("Twice", (Response,), {})) for _ in range(2))
    assert first is not second
    with pytest.raises(ValueError, match=r"'Twice'.*have one each"):
        from_dict(Rule(response=first()).to_dict())


@pytest.mark.parametrize("response", [Root(), Half(), Dropped()], ids=repr)
def test_a_zero_ratio_leaves_a_segment_as_it_is(response):
    from gradclip.rules.arrays import SCALARS

    assert response.coefficient(0.0, SCALARS) == 1.0


def test_a_state_belongs_to_a_rule_and_not_to_its_words(monkeypatch):
    state = Clipper(ClipGradByNorm(1.0)).state_dict()
    monkeypatch.setattr(Rescale, "words", "scaled down to it")
    Clipper(ClipGradByNorm(1.0)).load_state_dict(state)
    with pytest.raises(
        ValueError, match=r"belongs to the rule .*above 1 is rescaled to it', the clipper has .*above 2"
    ):
        Clipper(ClipGradByNorm(2.0)).load_state_dict(state)


def test_a_state_of_version_1_is_loaded():
    """As it was written before rules were compared by their data."""
    old = {
        "version": 1,
        "rule": "each tensor: an L2 norm above 1 is rescaled to it",
        "step": 7,
        "consecutive_skips": 0,
        "thresholds": {},
    }
    clipper = Clipper(ClipGradByNorm(1.0))
    clipper.load_state_dict(old)
    assert clipper.step == 7
    with pytest.raises(ValueError, match="belongs to the rule"):
        Clipper(ClipGradByNorm(2.0)).load_state_dict(old)


def half_of(step):
    return 0.5 * (step + 1)


def test_a_state_names_the_function_of_a_schedule():
    rule = Rule(threshold=Schedule(half_of))
    state = Clipper(rule).state_dict()
    assert state["rule"]["threshold"]["function"].endswith("half_of")
    Clipper(rule).load_state_dict(state)


def test_a_type_checker_knows_the_names_of_the_policies():
    assert get_args(PolicyName) == tuple(POLICIES)


def test_the_policies_are_told_apart_by_what_they_do():
    found = {name: (p.skips, p.raises, p.stops, p.writes_zeros, p.warns) for name, p in POLICIES.items()}
    assert found == {
        "keep": (False, False, False, False, True),
        "skip": (True, False, True, False, False),
        "zero": (False, False, False, True, False),
        "raise": (False, True, True, False, False),
    }


def test_a_part_that_hides_its_arguments_is_refused():
    """Two of them would be equal, and be read back without what they were made with."""

    class Hiding(Response):
        def __init__(self, power):
            object.__setattr__(self, "power", power)

    with pytest.raises(TypeError, match=r"the response Hiding keeps its arguments .*: make it a frozen dataclass"):
        Rule(response=Hiding(2.0))
