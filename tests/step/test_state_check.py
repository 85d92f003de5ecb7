"""A state is looked through as a whole: it loads right, or is refused by the name of its key with nothing changed."""

from __future__ import annotations

import copy
import json
import math
import random
import warnings
from decimal import Decimal

import numpy as np
import pytest
import torch

from gradclip import (
    EMA,
    AdaGC,
    AutoClip,
    ClipGradByGlobalNorm,
    ClipGradByNorm,
    History,
    Ratio,
    Row,
    Rule,
    Rules,
    Tensor,
    UClip,
    ZClip,
    from_dict,
)
from gradclip.clipper import Clipper
from gradclip.engines.reference import ReferenceEngine
from gradclip.rules.rule import Carry
from gradclip.step.checkpoint import same_data
from gradclip.step.gradients import Gradients
from gradclip.testing.check import adaptive_rules
from gradclip.torch import attach
from mutating import mutated

ENGINE = ReferenceEngine()
RULES = [
    *(rule for rule in adaptive_rules() if not isinstance(rule, Carry)),
    Rules({"t0": AdaGC(warmup=1), "*": ZClip(warmup=1)}) >> Rule(Row(), threshold=History(EMA(0.5), Ratio(2.0))),
    ClipGradByGlobalNorm(1.0),
]


def step(clipper, scale=1.0):
    tensors = [np.array([[3.0, 4.0], [0.5, 1.0]]) * scale, np.array([1.0, 2.0, 2.0]) * scale]
    weights = [np.ones((2, 2)), np.ones(3)]
    gradients = Gradients(tensors, "t{}".format, [0, 1], weights=lambda: weights, moments=lambda: weights)
    return clipper.clip_gradients(gradients, ENGINE)


def stepped(rule, scales=(1.0, 3.0, 0.01, 0.0, 100.0, math.nan, 2.0)):
    clipper = Clipper(rule)
    with np.errstate(invalid="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the NaN
        for scale in scales:
            step(clipper, scale)
    return clipper


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_what_was_written_loads(rule):
    state = json.loads(json.dumps(stepped(rule).state_dict(), allow_nan=False))
    clipper = Clipper(rule)
    clipper.load_state_dict(state)
    assert clipper.state_dict() == state


def changed(state, path, value):
    state = copy.deepcopy(state)
    place = state
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return state


ZERO = "thresholds", "0 -1 0"
WRONG = [
    (("step",), math.nan, r"step of this clipper state is nan, expected a whole number from 0"),
    (("step",), "7", "step of .* is '7'"),
    (("step",), True, "step of .* is True"),
    (("consecutive_skips",), -1, "consecutive_skips of .* is -1"),
    (("thresholds",), None, "thresholds of .* is None, expected a dict"),
    (("thresholds", "0 -1 9"), {}, r"thresholds\['0 -1 9'\] of .*, expected the numbers of a phase"),
    (("thresholds", "zero"), {}, r"thresholds\['zero'\]"),
    ((*ZERO, "memory"), [], r"thresholds\['0 -1 0'\]\['memory'\] of .* is \[\], expected a dict"),
    ((*ZERO, "memory", "mean"), [math.nan, 1.0], r"\['memory'\]\['mean'\]\[0\] of .* is nan, expected a finite number"),
    ((*ZERO, "memory", "mean"), [1.0, -1.0], r"\['memory'\]\['mean'\]\[1\] of .* is -1.0"),
    ((*ZERO, "memory", "mean"), [1.0], r"\['memory'\]\['mean'\] of .* is '1 numbers', expected 2"),
    ((*ZERO, "memory", "mean"), 1.0, r"\['memory'\]\['mean'\] of .* is 1.0, expected a list"),
    ((*ZERO, "memory", "other"), [1.0, 1.0], r"\['memory'\] of .*, expected the arrays \['count', 'mean'\]"),
    ((*ZERO, "owners"), [["t0", 1], ["t1"]], r"\['owners'\]\[1\] of .* is \['t1'\], expected a name"),
    ((*ZERO, "owners"), [["t0", 1], ["t1", "1"]], r"\['owners'\]\[1\]\[1\] of .* is '1'"),
    (("carried",), {"t0": 1.0}, "carried of .*, expected nothing, for the rule carries nothing over"),
    (("version",), 9, "expected a clipper state of version 2, found 9"),
    (("rule",), {}, "this state belongs to the rule"),
]


@pytest.mark.parametrize(("path", "value", "words"), WRONG)
def test_a_wrong_part_is_refused_by_its_key(path, value, words):
    clipper = stepped(Rule(Tensor(), threshold=History(EMA(0.5), Ratio(2.0))))
    before = clipper.state_dict()
    with pytest.raises(ValueError, match=words):
        clipper.load_state_dict(changed(before, path, value))
    assert clipper.state_dict() == before


@pytest.mark.parametrize("key", ["step", "consecutive_skips", "thresholds"])
def test_a_missing_part_is_named(key):
    clipper = stepped(ZClip())
    state = clipper.state_dict()
    before = copy.deepcopy(state)
    del state[key]
    with pytest.raises(ValueError, match=rf"\['{key}'\] is missing in this clipper state; nothing of the state"):
        clipper.load_state_dict(state)
    assert clipper.state_dict() == before


HELD = []
"""Optimizers, which a clipper does not keep."""


def attached(model_too: bool, rule=None):
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    HELD.append(optimizer)
    clipper = attach(optimizer, rule or AdaGC(), model=model if model_too else None)
    model(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    return clipper


@pytest.mark.parametrize("damaged", [lambda carried: {"fc." + name: t for name, t in carried.items()}, None])
def test_what_is_carried_of_other_names_or_missing_is_refused(damaged):
    clipper = attached(True, UClip(ClipGradByNorm(0.1)))
    before = clipper.state_dict()
    assert before["carried"].keys() == {"weight", "bias"}
    state = {**before}
    if damaged is None:
        del state["carried"]
    else:
        state["carried"] = damaged(state["carried"])
    words = r"\['carried'\] is missing" if damaged is None else "is of no parameter here"
    with pytest.raises(ValueError, match=words):
        clipper.load_state_dict(state)
    assert clipper.state_dict()["carried"].keys() == {"weight", "bias"}


def test_a_state_of_something_else_is_told():
    with pytest.raises(ValueError, match="with a version; this is that of a trainer's callback"):
        stepped(ZClip()).load_state_dict({"clippers": {}})
    with pytest.raises(ValueError, match="with a version"):
        stepped(ZClip()).load_state_dict({})


def test_a_memory_of_other_names_is_refused_where_they_are_known():
    state = attached(True).state_dict()
    attached(True).load_state_dict(state)
    other = attached(False)
    before = other.state_dict()
    with pytest.raises(ValueError, match=r"parameters 'weight' and so on, and those here are 'group 0, parameter 0'"):
        other.load_state_dict(state)
    assert other.state_dict() == before


@pytest.mark.parametrize("state", [None, 3, [], "state"])
def test_what_is_no_state_is_refused(state):
    with pytest.raises(TypeError, match="a clipper state is the dict that"):
        Clipper(ZClip()).load_state_dict(state)


def test_a_window_has_as_many_rows_as_its_rule():
    clipper = stepped(AutoClip(50, window=4))
    state = clipper.state_dict()
    state["thresholds"]["0 -1 0"]["memory"]["norms"].pop()
    with pytest.raises(ValueError, match=r"\['norms'\] of .* is '3 lists', expected 4"):
        clipper.load_state_dict(state)


def test_what_is_carried_is_tensors():
    clipper = Clipper(UClip(ClipGradByGlobalNorm(0.5)))
    step(clipper)
    before = clipper.state_dict()
    with pytest.raises(ValueError, match=r"carried\['t0'\] of .* is 'much', expected a tensor"):
        clipper.load_state_dict(before | {"carried": {"t0": "much"}})
    assert clipper.step == 1


@pytest.mark.parametrize("version", [np.array([1, 2]), torch.ones(2), 10**5000, Decimal("sNaN"), True, "2"], ids=type)
def test_a_version_of_any_kind_is_refused_in_a_sentence(version):
    clipper = stepped(ZClip())
    with pytest.raises(ValueError, match="expected a clipper state of version 2, found"):
        clipper.load_state_dict(clipper.state_dict() | {"version": version})
    with pytest.raises(ValueError, match="not a rule written by to_dict of version 1: found version"):
        from_dict(ZClip().to_dict() | {"version": version})


def test_a_key_of_too_many_digits_is_no_key():
    clipper = stepped(ZClip())
    state = clipper.state_dict()
    state["thresholds"]["1" * 5000 + " -1 0"] = state["thresholds"].pop("0 -1 0")
    with pytest.raises(ValueError, match="expected the numbers of a phase, a pattern and a stage"):
        clipper.load_state_dict(state)


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_a_mutated_state_loads_right_or_is_refused_with_nothing_changed(rule):
    """Of 2,700 all together, most are refused; those that load make steps, and write a state that loads again."""
    draw, clipper = random.Random(repr(rule)), stepped(rule)
    before, refused = clipper.state_dict(), 0
    for _ in range(150):
        state, refusal = mutated(before, draw), ""
        try:
            clipper.load_state_dict(state)
        except (ValueError, TypeError) as error:
            refusal = str(error)
        if refusal:
            assert "state" in refusal
            assert clipper.state_dict() == before
            refused += 1
            continue
        assert not math.isnan(step(clipper).threshold)
        Clipper(rule).load_state_dict(clipper.state_dict())
        clipper.load_state_dict(before)
    assert refused >= 50


@pytest.mark.parametrize("array", [np.array([1, 2]), torch.tensor([1.0, 2.0])])
def test_an_array_in_the_rule_of_a_state_is_another_rule(array):
    clipper = stepped(AutoClip(50, window=4))
    state = clipper.state_dict()
    state["rule"]["response"] = array
    with pytest.raises(ValueError, match="this state belongs to the rule"):
        clipper.load_state_dict(state)
    assert same_data({"a": [1, (2.0, None)]}, {"a": (1, [2.0, None])})
    assert not same_data({"a": [1]}, {"a": [1, 2]})
