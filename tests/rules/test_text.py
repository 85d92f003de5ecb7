"""Rules by short text: every recipe is reached, arguments are read, a mistake says what exists."""

import math

import pytest

from gradclip import ClipGradByGlobalNorm, ClipGradByNorm, ClipGradByValue, Rule, StepLength
from gradclip.rules import recipes
from gradclip.rules.text import recipes_by_name, rule_from_text


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("none", ClipGradByGlobalNorm(None)),
        ("norm:1", ClipGradByNorm(1.0)),
        ("steplength:0.5", Rule(threshold=StepLength(0.5))),
        ("step-length:length=2", Rule(threshold=StepLength(2.0))),
        ("global:0.25", ClipGradByGlobalNorm(0.25)),
        ("value:0.1", ClipGradByValue(0.1)),
        ("value:max=2, min=-1", ClipGradByValue(2, -1)),
        ("global:1,inf", ClipGradByGlobalNorm(1.0, math.inf)),
        ("global:None", ClipGradByGlobalNorm(None)),
        ("Clip-Grad_By-NORM:2", ClipGradByNorm(2.0)),
        ("value:1 >> global:1", ClipGradByValue(1.0) >> ClipGradByGlobalNorm(1.0)),
        ("(value:1>>norm:2) >> global:3", ClipGradByValue(1.0) >> ClipGradByNorm(2.0) >> ClipGradByGlobalNorm(3.0)),
        ("zclip", recipes.ZClip()),
        ("z-clip:z=3,max_norm=None", recipes.ZClip(z=3, max_norm=None)),
        ("agc:0.02,exclude=head*", recipes.AGC(0.02, exclude="head*")),
        ("agc:exclude=('head*', '*.bias')", recipes.AGC(exclude=("head*", "*.bias"))),
        ("agc:axis=(1, 2)", recipes.AGC(axis=(1, 2))),
        ("uclip:value:2", recipes.UClip(ClipGradByValue(2.0))),
        ("uclip:(value:1 >> global:1,inf)", recipes.UClip(ClipGradByValue(1.0) >> ClipGradByGlobalNorm(1.0, math.inf))),
    ],
)
def test_a_text_is_the_rule_that_the_recipe_gives(text: str, rule: object) -> None:
    assert rule_from_text(text) == rule


@pytest.mark.parametrize("name", recipes.NAMES)
def test_every_recipe_is_known_by_its_own_name(name: str) -> None:
    assert recipes_by_name()[name] is getattr(recipes, name)


def test_a_recipe_that_is_added_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def NextYears(limit: float = 2.0) -> Rule:
        return ClipGradByNorm(limit)

    monkeypatch.setattr(recipes, "NextYears", NextYears, raising=False)
    monkeypatch.setattr(recipes, "NAMES", [*recipes.NAMES, "NextYears"])
    assert rule_from_text("next-years:3") == ClipGradByNorm(3.0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("gobal:1", ["no rule is called 'gobal'", "did you mean 'global'?", "ZClip"]),
        ("xyzzy", ["no rule is called 'xyzzy'", "There are"]),
        ("", ["a rule is missing", "'global:1'"]),
        ("value:1 >>", ["a rule is missing"]),
        ("global", ["clip_norm", "it is written global:clip_norm,norm_type=2.0"]),
        ("global:1,2,3", ["too many", "it is written global:clip_norm"]),
        ("norm:1,size=1", ["size", "it is written norm:clip_norm"]),
        ("none:1", ["too many", "it is written none"]),
        ("global:0", ["clip_norm must be above 0"]),
        ("steplength", ["length", "it is written steplength:length"]),
        ("steplength:-1", ["the length of a step is a number above 0", "it is written steplength:length"]),
        ("global:one", ["clip_norm must be a number above 0, got 'one'"]),
        ("zclip:feed=backwards", ["feed", "'backwards'"]),
        ("uclip:global:1 >> value:1", ["UClip is for a whole rule"]),
    ],
)
def test_a_mistake_says_what_exists(text: str, words: list[str]) -> None:
    with pytest.raises(ValueError) as error:
        rule_from_text(text)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_a_schedule_cannot_be_written_and_says_so_in_one_line() -> None:
    with pytest.raises(ValueError, match="clip_norm must be a number") as error:
        rule_from_text("global:Schedule((0, 1), (9, 2))")
    assert "\n" not in str(error.value)
