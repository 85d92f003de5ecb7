"""Rules as plain data and back."""

import json
import random

import numpy as np
import pytest

from gradclip import (
    AGC,
    Bounds,
    ClipGradByGlobalNorm,
    ClipGradByNorm,
    ClipGradByValue,
    Constant,
    Element,
    Given,
    Linf,
    Normalize,
    Row,
    Rule,
    Rules,
    Schedule,
    Smooth,
    from_dict,
)
from gradclip.testing import standard_rules
from mutating import mutated


@pytest.mark.parametrize("rule", standard_rules(), ids=repr)
def test_a_rule_survives_json(rule):
    text = json.dumps(rule.to_dict(), allow_nan=False)
    again = from_dict(json.loads(text))
    assert again == rule
    assert type(again) is type(rule)
    assert repr(again) == repr(rule)
    assert hash(again) == hash(rule)


@pytest.mark.parametrize(
    "rule",
    [
        Rule(response=Smooth("tanh")),
        Rule(response=Normalize(1e-6)),
        Rule(threshold=Constant(None)),
        Rule(threshold=Schedule((3, 0.1), (7, 1e-9))),
        Rule(Element(), Linf(), Bounds(float("inf"), -1.0)),
        Rule(Element(), Linf(), Bounds(1.0, -float("inf"))),
        ClipGradByGlobalNorm(0.1, norm_type=2.5),
        Rules({"a": None, "*": ClipGradByNorm(1.0) >> ClipGradByValue(2.0, -3.0)}) >> ClipGradByGlobalNorm(1.0),
    ],
    ids=repr,
)
def test_every_number_of_a_rule_survives_json(rule):
    assert from_dict(json.loads(json.dumps(rule.to_dict(), allow_nan=False))) == rule


def test_the_data_names_their_version():
    assert ClipGradByNorm(1.0).to_dict()["version"] == 1


@pytest.mark.parametrize("data", [{}, {"version": 2}, None, [], "rule"])
def test_what_to_dict_did_not_write_is_refused(data):
    with pytest.raises(ValueError, match="not a rule written by to_dict of version 1"):
        from_dict(data)


def test_an_unknown_type_is_refused_with_those_that_are_known():
    data = json.loads(json.dumps(ClipGradByNorm(1.0).to_dict()).replace("Constant", "Oracle"))
    with pytest.raises(ValueError, match=r"unknown .* 'Oracle'.*Constant"):
        from_dict(data)


def test_data_of_a_part_of_a_rule_are_refused():
    part = ClipGradByNorm(1.0).to_dict()["norm"]
    with pytest.raises(ValueError, match="expected a rule, found a L2"):
        from_dict({"version": 1, **part})


def test_a_schedule_made_from_a_function_says_that_it_cannot_be_written():
    rule = ClipGradByNorm(Schedule(lambda step: 1.0 + step))
    with pytest.raises(ValueError, match=r"give it points, Schedule\(\(0, 10.0\)"):
        rule.to_dict()


def test_a_row_written_before_it_had_an_axis_is_read():
    data = Rule(Row()).to_dict()
    assert data["scope"] == {"type": "Row", "axis": None}
    del data["scope"]["axis"]
    assert from_dict(data) == Rule(Row())


def test_the_axes_of_a_row_are_read_back_from_json():
    data = json.loads(json.dumps(Rule(Row((1, 2))).to_dict()))
    assert data["scope"] == {"type": "Row", "axis": [1, 2]}
    assert from_dict(data) == Rule(Row((1, 2)))
    with pytest.raises(ValueError, match=r"rule\['scope'\] cannot be a Row: the axes of a Row are neighbours"):
        from_dict(data | {"scope": {"type": "Row", "axis": [0, 2]}})


@pytest.mark.parametrize("rule", standard_rules(), ids=repr)
def test_mutated_data_is_read_right_or_refused_with_its_place(rule):
    """Of 2,000 all together; what is read is a rule that is written and read again."""
    draw, data = random.Random(repr(rule)), rule.to_dict()
    for _ in range(15):
        changed, refusal = mutated(data, draw), ""
        try:
            found = from_dict(changed)
        except ValueError as error:
            refusal = str(error)
        if refusal:
            assert refusal.startswith(("rule", "not a rule written", "expected a rule"))
        else:
            assert from_dict(found.to_dict()) == found


@pytest.mark.parametrize(
    ("part", "value", "words"),
    [
        (
            "threshold",
            {"type": "Constant"},
            r"rule\['threshold'\] is a Constant, which needs its 'limit': it has limit",
        ),
        ("threshold", {"type": "Constant", "limit": -1}, r"rule\['threshold'\] cannot be a Constant: "),
        ("threshold", {"type": "Constant", "limit": 1, "x": 2}, r"rule\['threshold'\] is a Constant, which has no 'x'"),
        ("threshold", {"type": ["Constant"]}, r"rule\['threshold'\] has the unknown type \['Constant'\]"),
        ("threshold", {"type": "Schedule"}, r"rule\['threshold'\] is a Schedule, which needs its 'points'"),
        ("norm", {"type": "Norm", "p": -2.0}, r"rule\['norm'\] cannot be a Norm: the order of a norm lies in"),
        ("norm", {"type": "Norm", "p": "abc"}, r"rule\['norm'\] cannot be a Norm: the order of a norm is a number"),
        ("norm", {"type": "Norm", "p": 2.0}, r"rule cannot be a Rule: norm must be a Norm, got Norm\(p=2.0\)"),
        ("threshold", {"type": "Threshold"}, r"rule cannot be a Rule: threshold must be a Threshold, got Threshold"),
        ("scope", {"type": "Scope"}, r"rule cannot be a Rule: scope must be a Scope, got Scope"),
        ("scope", 3, "rule cannot be a Rule: scope must be a Scope, got 3"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(part, value, words):
    with pytest.raises(ValueError, match=words):
        from_dict(Rule().to_dict() | {part: value})


def test_names_of_numpy_are_plain_strings():
    """Or a state that holds them is not read back by torch.load(weights_only=True)."""
    name = np.array(["head"])[0]
    assert type(AGC(exclude=name).parts[0][0]) is str
    assert type(Given(Constant(1.0), np.str_("loss")).name) is str
