"""What the script's own code did to gradients between backward and the step, told by their norms at both ends."""

import math

import pytest

from gradclip.watch.gradient_norms import GradientNorms
from gradclip.watch.journal import Applied, Examined, Made
from gradclip.watch.step_events import WatchedStep, event_of_step
from watch.test_journal import clip


def norms(*values: float, order: float = 2.0) -> GradientNorms:
    found = list(range(len(values)))
    return GradientNorms(found, order, list(values), [0 if math.isfinite(value) else 1 for value in values])


def event(made, left, applied=(), scale: float = 1.0, order: float = 2.0):
    known = None if made is None else Made(norms(*made), scale)
    step = WatchedStep(3, 0.0, Examined(list(applied), [], made=known), norms(*left, order=order), 1.0, where="a.py:9")
    return event_of_step(step, {0: "weight", 1: "bias"})[0]


CHANGED = {
    "scaled": ([3.0, 4.0], [1.5, 2.0 * 0.9]),
    "one tensor of two": ([3.0, 4.0], [3.0, 1.0]),
    "all by one factor": ([3.0, 4.0], [3.0 / 1.7, 4.0 / 1.7]),
    "set to zero": ([3.0, 4.0], [0.0, 0.0]),
    "to a norm of 0.56": ([3.0, 4.0], [0.336, 0.448]),
}


@pytest.mark.parametrize("name", CHANGED)
def test_what_became_smaller_was_clipped_by_own_code(name):
    made, left = CHANGED[name]
    found = event(made, left)
    assert found.rule == "own code before the step at a.py:9"
    assert found.clipped
    assert found.norm_before == pytest.approx(5.0)
    assert found.norm_after == pytest.approx(math.hypot(*left))
    assert found.tensors == {"weight": 3.0, "bias": 4.0}
    assert found.threshold == math.inf


UNCHANGED = {
    "as it was": ([3.0, 4.0], [3.0, 4.0]),
    "rounded": ([3.0, 4.0], [3.0 * 0.995, 4.0 * 1.005]),
    "a mean over three": ([3.0, 4.0], [1.0, 4.0 / 3.0]),
    "a mean over 614 words": ([3.0, 4.0], [3.0 / 614, 4.0 / 614]),
    "a scale of 65536": ([3.0, 4.0], [3.0 / 65536, 4.0 / 65536]),
    "made larger": ([3.0, 4.0], [3.0, 4.5]),
    "noise was added": ([3.0, 4.0], [2.5, 4.5]),
    "a trace that the scale took": ([3.0, 1e-4], [3.0, 0.5e-4]),
    "not finite": ([3.0, math.inf], [1.0, 1.0]),
    "not measured": (None, [3.0, 4.0]),
}


@pytest.mark.parametrize("name", UNCHANGED)
def test_what_nobody_clipped_is_not_said_to_be(name):
    found = event(*UNCHANGED[name])
    assert found.rule == "the script does not clip"
    assert not found.clipped
    assert found.norm_before == pytest.approx(math.hypot(*UNCHANGED[name][1]))


def test_a_loss_scale_that_was_taken_away_is_no_change():
    assert not event([3.0 * 8, 4.0 * 8], [3.0, 4.0], scale=8.0).clipped
    assert event([3.0 * 8, 4.0 * 8], [1.3, 2.0], scale=8.0).norm_before == pytest.approx(5.0)


def test_what_a_known_call_did_is_not_own_code():
    call = Applied(clip(parameters=frozenset({0, 1}), norm=5.0, norms_before=norms(3.0, 4.0)))
    assert event([3.0, 4.0], [], [call]).rule.startswith("clip_grad_norm_(max_norm=1)")


def test_a_call_that_only_measures_leaves_it_to_own_code():
    call = Applied(clip(parameters=frozenset({0, 1}), norm=5.0, norms_before=norms(3.0, 4.0), threshold=math.inf))
    assert event([3.0, 4.0], [0.3, 0.4001], [call]).norm_before == pytest.approx(5.0)
    assert event([3.0, 4.0], [0.3, 0.41], [call]).rule.startswith("own code")
