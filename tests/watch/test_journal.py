"""What is made of the calls between two steps: each log by hand."""

import math

import pytest

from gradclip.watch import journal
from gradclip.watch.journal import Backward, ClipCall, Examined, HandedOn, Scaled, Unscaled, Zeroed, examine, left_out

MINE, OTHERS = frozenset({1, 2}), frozenset({3, 4})
OPTIMIZER = 7
FIRST, SECOND = object(), object()


def clip(where: str = "train.py:1", parameters: frozenset[int] = MINE, **facts) -> ClipCall:
    known = {"given": len(parameters), "gradients": len(parameters), "first": lambda: FIRST}
    threshold = facts.pop("threshold", 1.0)
    return ClipCall("clip_grad_norm_", journal.NORM, threshold, 2.0, where, parameters=parameters, **known | facts)


def examined(*entries) -> Examined:
    return examine(entries, OPTIMIZER, MINE)


def flaws(*entries) -> list[str]:
    return [flaw.name for flaw in examined(*entries).flaws]


HEALTHY = {
    "plain": [Zeroed(MINE), Backward(), clip()],
    "nothing clipped": [Zeroed(MINE), Backward()],
    "accumulated": [Backward(), Backward(), Backward(), clip()],
    "unscaled": [Scaled(8.0), Backward(), Unscaled(OPTIMIZER), clip()],
    "two halves": [Backward(), clip(parameters=frozenset({1})), clip(parameters=frozenset({2}))],
    "value, then norm": [Backward(), clip()._replace(kind=journal.VALUE), clip()],
    "another optimizer's": [Backward(), clip(parameters=OTHERS), Zeroed(MINE), Backward(), clip()],
    "given up by hand": [Backward(), clip(), Backward(), clip(first=lambda: SECOND)],
    "the norm is only asked for": [clip(threshold=math.inf), Backward(), clip(), clip(threshold=1e9)],
    "another net's loss was scaled": [Scaled(8.0), Backward(), Unscaled(99), Backward(), clip()],
    "zeroed in place": [Backward(), clip(), Zeroed(MINE), Backward(), clip()],
    "zeroed late": [Backward(used=[OPTIMIZER]), Zeroed(MINE), Backward(), clip()],
    "zeroed by hand": [Backward(used=[OPTIMIZER]), Backward(), clip()],
    "another's were not zeroed": [Backward(used=[99]), clip()],
    "all in one call": [Backward(missed=[OPTIMIZER]), clip(parameters=MINE | OTHERS), Zeroed(MINE), Backward(), clip()],
    "beside a copy": [Backward(), clip(), clip(parameters=OTHERS, gradients=0)],
    "what is trained by hand": [Backward(), clip(parameters=OTHERS)],
    "gradients handed on": [Zeroed(MINE), Scaled(8.0), HandedOn(), Backward(), Unscaled(OPTIMIZER), clip(), HandedOn()],
    "gradients put there": [Zeroed(MINE), HandedOn(), clip()],
}


@pytest.mark.parametrize("entries", HEALTHY.values(), ids=HEALTHY)
def test_what_is_right_has_no_flaw(entries) -> None:
    assert flaws(*entries) == []


SICK = {
    journal.AFTER_STEP: [clip(), Zeroed(MINE), Backward()],
    journal.BEFORE_BACKWARD: [Zeroed(MINE), clip(), Backward()],
    journal.BEFORE_UNSCALE: [Scaled(8.0), Backward(), clip(), Unscaled(OPTIMIZER)],
    journal.MICRO_STEP: [Backward(), clip(), Backward(), clip()],
    journal.TWICE: [Backward(), clip(), clip("train.py:2")],
    journal.TWO_KNOBS: [Backward(), clip(), clip("train.py:2", by="lightning")],
    journal.EMPTY: [Backward(), clip(parameters=frozenset())],
    journal.NOT_ZEROED: [Backward(used=[OPTIMIZER]), clip()],
    journal.OTHER_MODEL: [Backward(missed=[OPTIMIZER]), clip(), Zeroed(MINE), Backward()],
    journal.UNTRAINED: [Backward(), clip(parameters=OTHERS, gradients=0)],
    journal.NO_PARAMETERS: [Backward(), clip(parameters=frozenset({8, 9}), gradients=0, are_parameters=False)],
}


@pytest.mark.parametrize("name", SICK)
def test_what_is_wrong_has_its_name(name: str) -> None:
    assert flaws(*SICK[name]) == [name]


def test_a_clip_of_gradients_that_are_given_up_is_discarded_where_none_follows() -> None:
    assert flaws(Backward(), clip(), Zeroed(MINE), Backward()) == [journal.DISCARDED]
    assert flaws(Backward(), clip(), Backward(fresh=[OPTIMIZER])) == [journal.DISCARDED]
    assert flaws(Backward(), clip(threshold=math.inf), Zeroed(MINE), Backward()) == []
    assert flaws(Backward(), clip(), Zeroed(MINE), Backward(), clip()) == []
    begins = journal.ClosureBegins(OPTIMIZER)
    assert flaws(Backward(), clip(), begins, Zeroed(MINE), Backward()) == [journal.BEFORE_CLOSURE]
    assert flaws(Backward(), clip(), begins, Zeroed(MINE), Backward(), clip()) == []


def test_the_parameters_of_another_optimizer_are_trained() -> None:
    assert examine([Backward(), clip(parameters=OTHERS, gradients=0)], OPTIMIZER, MINE, others=OTHERS).flaws == []


def test_what_was_not_zeroed_is_told_at_the_line_of_the_step() -> None:
    (flaw,) = examine([Backward(used=[OPTIMIZER])], OPTIMIZER, MINE, step_at="train.py:9").flaws
    assert flaw == (journal.NOT_ZEROED, "train.py:9", "")


def test_gradients_that_never_were_there_are_clipped_before_backward() -> None:
    assert flaws(clip(gradients=0), Backward()) == [journal.BEFORE_BACKWARD]


def test_the_scale_of_another_optimizer_that_was_unscaled_stays_on_mine() -> None:
    assert flaws(Scaled(8.0), Backward(), Unscaled(99), clip()) == [journal.BEFORE_UNSCALE]


def test_only_what_acts_is_applied() -> None:
    (applied,) = examined(clip("stale"), Zeroed(MINE), Backward(), clip("right")).applied
    assert applied.clip.where == "right"
    assert examined(Backward(), clip("gone"), Zeroed(MINE), Backward()).applied == []


def test_a_scaled_clip_acts_and_carries_its_scale() -> None:
    (applied,) = examined(Scaled(8.0), Backward(), clip()).applied
    assert applied.scale == 8.0


def test_the_call_by_hand_is_the_one_to_take_away() -> None:
    (flaw,) = examined(Backward(), clip("lib.py:1", by="transformers"), clip("train.py:9")).flaws
    assert (flaw.where, flaw.by) == ("train.py:9", "transformers")


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ([[1, 2]], (None, [])),
        ([[1, 2, 5]], (journal.SOME_ONLY, [5])),
        ([[1, 2], [5, 6]], (journal.GROUP_EXCLUDED, [5, 6])),
        ([[1, 2], []], (None, [])),
        ([[1, 5], [2, 6]], (journal.SOME_ONLY, [5, 6])),
    ],
)
def test_what_was_left_out(groups, expected) -> None:
    assert left_out(groups, examined(Backward(), clip()).applied) == expected


def test_where_nothing_is_clipped_nothing_is_left_out() -> None:
    assert left_out([[1, 2]], []) == (None, [])
