"""Rules as data: defaults, chains, patterns, sentences."""

import pytest

from gradclip import (
    L1,
    L2,
    RMS,
    Bounds,
    Chain,
    ClipGradByGlobalNorm,
    ClipGradByNorm,
    ClipGradByValue,
    Constant,
    Element,
    Given,
    Global,
    Group,
    History,
    Linf,
    Lp,
    Normalize,
    Raise,
    Rescale,
    Row,
    Rule,
    Rules,
    Schedule,
    SecondMoment,
    SkipStep,
    Smooth,
    Tensor,
    WeightRatio,
    ZClip,
    Zero,
    min_of,
    until,
)
from gradclip.rules.estimators import Estimator
from gradclip.rules.levels import Level
from gradclip.rules.norm import Norm
from gradclip.rules.response import Response
from gradclip.rules.rule import checked_rule, rules_in
from gradclip.rules.scope import Scope
from gradclip.rules.threshold import Threshold


def test_the_default_rule_is_a_global_l2_norm_of_1():
    assert Rule() == ClipGradByGlobalNorm(1.0)


def test_the_named_rules_are_rules():
    assert ClipGradByNorm(2.0) == Rule(Tensor(), L2(), Constant(2.0), Rescale())
    assert ClipGradByGlobalNorm(2.0, norm_type=1) == Rule(Global(), L1(), Constant(2.0))
    assert ClipGradByGlobalNorm(2.0, norm_type=float("inf")) == Rule(Global(), Linf(), Constant(2.0))
    assert ClipGradByGlobalNorm(2.0, norm_type=3) == Rule(Global(), Lp(3.0), Constant(2.0))
    assert ClipGradByValue(2.0) == Rule(Element(), Linf(), Constant(2.0))
    assert ClipGradByValue(2.0, -1.0) == Rule(Element(), Linf(), Bounds(2.0, -1.0))
    schedule = Schedule((0, 10.0), (100, 1.0))
    assert ClipGradByNorm(schedule).threshold is schedule


@pytest.mark.parametrize(
    ("rule", "sentence"),
    [
        (ClipGradByGlobalNorm(1.0), "all tensors together: an L2 norm above 1 is rescaled to it"),
        (ClipGradByNorm(0.5, 3), "each tensor: an L3 norm above 0.5 is rescaled to it"),
        (ClipGradByValue(1.0), "each element: a magnitude above 1 is rescaled to it"),
        (ClipGradByValue(1.0, -2.0), "each element: a magnitude outside [-2, 1] is rescaled to it"),
        (ClipGradByGlobalNorm(None), "all tensors together: an L2 norm is measured and never clipped"),
        (
            Rule(Row(), RMS(), Constant(1.0), Smooth()),
            "each row: a root mean square above 1 is bent smoothly below it (reciprocal)",
        ),
        (
            Rule(Group(), L1(), Constant(2.0), SkipStep()),
            "each parameter group: an L1 norm above 2 is answered by skipping the step",
        ),
        (
            Rule(Tensor(), Linf(), Schedule((0, 10.0), (9, 1.0)), Normalize()),
            "each tensor: a largest absolute value above a schedule 10 at step 0 -> 1 at step 9 is normalised to it",
        ),
        (
            ClipGradByNorm(1.0) >> ClipGradByGlobalNorm(5.0),
            "each tensor: an L2 norm above 1 is rescaled to it; "
            "then all tensors together: an L2 norm above 5 is rescaled to it",
        ),
        (
            Rules({"*.bias": None, "*": ClipGradByNorm(1.0)}),
            "by name: *.bias (left alone); * (each tensor: an L2 norm above 1 is rescaled to it)",
        ),
    ],
)
def test_a_rule_reads_as_a_sentence(rule, sentence):
    assert repr(rule) == sentence


def test_a_chain_is_flat_and_associative():
    a, b, c = ClipGradByNorm(1.0), ClipGradByGlobalNorm(2.0), ClipGradByValue(3.0)
    assert (a >> b) >> c == a >> (b >> c) == Chain((a, b, c))
    assert (a >> b).stages == (a, b)
    assert a.stages == (a,)


def test_the_first_pattern_that_matches_wins():
    bias, weight, rest = ClipGradByNorm(1.0), ClipGradByNorm(2.0), ClipGradByNorm(3.0)
    rules = Rules({"*.bias": bias, "fc.*": weight, "*": rest})
    assert rules["fc.bias"] is bias
    assert rules["fc.weight"] is weight
    assert rules["conv.weight"] is rest
    assert rules.match("fc.weight") == 1


def test_a_name_that_no_pattern_matches_is_left_alone():
    rules = Rules([("fc[12].*", ClipGradByNorm(1.0)), ("head.?", None)])
    assert rules["fc3.weight"] is None
    assert rules["FC1.weight"] is None
    assert rules["fc1.weight"] is not None
    assert rules.match("fc3.weight") is None
    assert rules.match("head.w") == 1


def test_every_rule_inside_is_found_in_order():
    a, b, c = ClipGradByNorm(1.0), ClipGradByGlobalNorm(2.0), ClipGradByValue(3.0)
    assert rules_in(Rules({"x": a >> b, "y": None, "*": c}) >> a) == [a, b, c, a]


@pytest.mark.parametrize(
    ("make", "remedy"),
    [
        (lambda: Rule(scope="global"), r"scope must be a Scope, got 'global': write Global\(\)"),
        (lambda: Rule(norm=2), r"norm must be a Norm, got 2: write L2\(\)"),
        (lambda: Rule(threshold=1.0), r"threshold must be a Threshold, got 1.0: write Constant\(1.0\)"),
        (lambda: Rule(response="skip"), r"response must be a Response.*SkipStep\(\)"),
        (lambda: ClipGradByNorm(1.0) >> 1.0, r">> joins two rules, got 1.0"),
        (lambda: Rules({"*": 1.0}), r"Rules maps a pattern to a rule or None, got '\*': 1.0"),
        (lambda: Rules({1: None}), r"Rules maps a pattern"),
        (lambda: Rule(norm=Norm(2.0)), r"norm must be a Norm, got Norm\(p=2.0\): write L2\(\)"),
        (lambda: Rule(scope=Scope()), r"scope must be a Scope, got Scope\(\): write Global\(\)"),
        (lambda: Rule(threshold=Threshold()), r"threshold must be a Threshold, got Threshold\(\)"),
        (lambda: Rule(response=Response()), r"response must be a Response, got Response\(\)"),
        (lambda: min_of(1.0, Threshold()), r"Threshold\(\) is what thresholds derive from"),
        (lambda: Given(Threshold()), r"Given takes a threshold, got Threshold\(\)"),
        (lambda: History(Estimator(), Level()), r"a History takes an estimator and a level, got Estimator\(\)"),
        (lambda: checked_rule(1.0), r"expected a clipping rule, got 1.0: write for example ClipGradByGlobalNorm"),
    ],
)
def test_what_is_no_rule_is_refused_with_a_remedy(make, remedy):
    with pytest.raises(TypeError, match=remedy):
        make()


@pytest.mark.parametrize(
    ("make", "remedy"),
    [
        (lambda: Rule(Tensor(), L2(), Bounds(1.0, -1.0)), r"Bounds\(max, min\) clips by value: write scope=Element"),
        (lambda: ClipGradByValue(WeightRatio(0.1)), r"one for a norm of the gradient.*write scope=Tensor\(\), or AGC"),
        (lambda: Rule(Element(), threshold=min_of(1.0, WeightRatio(0.1))), r"one for a norm of the gradient"),
        (lambda: Given(WeightRatio(0.1)), r"Given compares one number with one threshold of it.*Given\(History"),
        (lambda: Given(min_of(1.0, WeightRatio(0.1))), r"Given compares one number with one threshold of it"),
        (lambda: Given(Given(Constant(1.0), "x")), r"Given compares one number with one threshold of it"),
        (lambda: Given(SecondMoment()), r"Given compares one number with one threshold of it"),
        (lambda: Norm(-2.0), r"the order of a norm lies in \[0.1, inf\], got -2.0"),
        (lambda: ZClip(readmit=1 << 53), r"readmit is a whole number of steps from 1 or None"),
        (lambda: until(1 << 53, 1.0, None), r"until takes a whole number of steps from 1"),
        (lambda: Rules({}), r'Rules needs at least one pattern: Rules\(\{"\*"'),
        (lambda: Chain(()), r"a chain needs at least one rule"),
        (
            lambda: ClipGradByValue(1.0) >> Rule(response=Raise()),
            r"an error would come after gradients were written: put the rule that raises first",
        ),
    ],
)
def test_what_makes_no_sense_together_is_refused_with_a_remedy(make, remedy):
    with pytest.raises(ValueError, match=remedy):
        make()


def test_a_rule_that_raises_may_come_before_one_that_writes_or_fold_with_rescaling():
    assert Rule(response=Raise()) >> ClipGradByValue(1.0)
    assert ClipGradByNorm(1.0) >> Rule(response=Raise())


@pytest.mark.parametrize(
    "second", [Rule(Global(), Linf(), Constant(1.0), Raise()), Rules({"*": Rule(response=Raise())})]
)
def test_a_rule_that_raises_in_a_later_phase_is_refused(second):
    """Another norm and a choice by name begin a new phase: the one before it has written by then."""
    with pytest.raises(ValueError, match="put the rule that raises first"):
        ClipGradByNorm(1.0) >> second


def test_a_rule_is_hashable_and_frozen():
    rules = {ClipGradByNorm(1.0), ClipGradByNorm(1.0), Rule(response=Zero()), ClipGradByNorm(1.0) >> Rule()}
    assert len(rules) == 3
    with pytest.raises(AttributeError):
        Rule().norm = L1()
