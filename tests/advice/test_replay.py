"""Replay: rules played over recorded norms, by hand and beside the clipper that really clips."""

from __future__ import annotations

import math
import time
import warnings

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gradclip import ClipGradByGlobalNorm, GradclipWarning, Raise, Rule
from gradclip.advice.replay import replay
from gradclip.clipper import Clipper
from gradclip.engines.reference import ReferenceEngine
from gradclip.rules.text import rule_from_text
from gradclip.step.gradients import Gradients

REPLAYED = [
    *("none", "global:1", "global:0.5,norm_type=1", "zclip", "zclip:z=1,warmup=3,readmit=2", "autoclip:50,window=4"),
    *("quantileclip:0.9", "skipspikes:sigmas=1,window=8,warmup=3", "smoothclip:1", "normalizedgradient"),
    *("global:2 >> zclip:warmup=2", "skipspikes:1,8,3 >> autoclip:30"),
]


def clipped_for_real(rule, norms):
    """The thresholds and outputs of the clipper, on gradients of one element, for which every norm is the same."""
    clipper, engine, thresholds, outputs = Clipper(rule), ReferenceEngine(), [], []
    with warnings.catch_warnings(), np.errstate(invalid="ignore"):
        warnings.simplefilter("ignore", GradclipWarning)
        for norm in norms:
            gradient = np.array([norm])
            result = clipper.clip_gradients(Gradients([gradient], str, [0]), engine)
            thresholds.append(result.threshold)
            outputs.append(0.0 if result.skipped else gradient.item() if math.isfinite(norm) else math.nan)
    return thresholds, outputs


def test_a_fixed_threshold_by_hand():
    found = replay([0.5, 4.0, math.nan, 1.0, 0.0, math.inf], ClipGradByGlobalNorm(2.0))
    assert found.thresholds == [2.0] * 6
    np.testing.assert_array_equal(found.outputs, [0.5, 2.0, math.nan, 1.0, 0.0, math.nan])
    assert found.clip_rate == 1 / 4  # of the four finite steps
    assert found.kept == 3.5 / 5.5
    assert found.largest == 2.0


def test_a_skipped_step_puts_out_nothing_and_counts_as_clipped():
    """Of 1, 2, 1, 2 the mean is 1.5 and the unbiased deviation 0.58: one of them above is 2.08."""
    found = replay([1.0, 2.0, 1.0, 2.0, 9.0, 2.0], rule_from_text("skipspikes:1,window=8,warmup=4,max_norm=None"))
    assert found.outputs == [1.0, 2.0, 1.0, 2.0, 0.0, 2.0]
    assert found.clip_rate == 1 / 6
    assert found.kept == 8 / 17
    assert found.thresholds[4] == pytest.approx(1.5 + math.sqrt(1 / 3))


def test_a_window_follows_by_hand():
    """The median of the last two, this one included: of 2, of 2 and 4, of 4 and 8, of 8 and 1."""
    found = replay([2.0, 4.0, 8.0, 1.0], rule_from_text("autoclip:50,window=2"))
    assert found.thresholds == [2.0, 3.0, 6.0, 4.5]
    assert found.outputs == [2.0, 3.0, 6.0, 1.0]


def test_nothing_is_learnt_from_a_norm_that_is_not_finite():
    usual = [1.0, 1.1] * 20
    with_nan = replay([*usual, math.nan, 50.0], rule_from_text("zclip:max_norm=None"))
    without = replay([*usual, 50.0], rule_from_text("zclip:max_norm=None"))
    assert with_nan.outputs[-1] == without.outputs[-1] < 1.2


def test_nothing_recorded_is_nothing_clipped():
    found = replay([], ClipGradByGlobalNorm(1.0))
    assert (found.outputs, found.clip_rate, found.kept, found.largest) == ([], 0.0, 1.0, 0.0)


def test_what_is_kept_of_huge_norms_is_a_share():
    assert replay([1e308] * 20, ClipGradByGlobalNorm(5e307)).kept == 0.5


# Norms whose squares, which the clipper takes and the replay does not, stay normal numbers of float64.
norm = st.one_of(st.floats(1e-100, 1e100), st.floats(0.1, 10.0), st.sampled_from([0.0, math.nan, math.inf]))


@pytest.mark.parametrize("text", REPLAYED)
@given(norms=st.lists(norm, max_size=25))
@example(norms=[1.75, 1.0])
@example(norms=[1.0, 1.75, 1.75, 1.0])
@example(norms=[4.653083590796363e16, 1.0])
@settings(max_examples=40, deadline=None)
def test_a_replay_is_what_the_clipper_does(text, norms):
    """A square and its root are right to two roundings, so that a step on the very edge may come out as clipped.

    Of several stages the hardest is then the one that did so, and the threshold reported is another one.
    """
    rule = rule_from_text(text)
    found = replay(norms, rule)
    thresholds, outputs = clipped_for_real(rule, norms)
    np.testing.assert_allclose(found.outputs, outputs, rtol=1e-9)
    given = np.array(norms)
    off = [np.abs(given - out) / np.maximum(given, 1e-300) for out in (np.array(found.outputs), np.array(outputs))]
    compared = np.isfinite(given) & ~np.any([(share > 0) & (share < 1e-9) for share in off], axis=0)
    np.testing.assert_allclose(np.array(found.thresholds)[compared], np.array(thresholds)[compared], rtol=1e-9)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("norm:1", "measures parts of the gradient"),
        ("value:1", "measures parts of the gradient"),
        ("adagc", "measures parts of the gradient"),
        ("agc", "measures parts of the gradient"),
        ("global:1 >> global:1,norm_type=1", "measures several kinds of norm"),
        ("skipspikes:loss=True", "reads the loss"),
        ("uclip:global:1", "adds what it took away"),
    ],
)
def test_a_rule_that_norms_are_not_enough_for_is_refused(text, why):
    with pytest.raises(ValueError, match=f"{why}.*ClipGradByGlobalNorm"):
        replay([1.0], rule_from_text(text))


def test_a_rule_that_raises_is_refused():
    with pytest.raises(ValueError, match="ends a run by an error"):
        replay([1.0], Rule(response=Raise()))


@pytest.mark.parametrize(("text", "seconds"), [("global:1", 5.0), ("zclip", 10.0)])
def test_a_long_run_is_replayed_in_seconds(text, seconds):
    """Measured on one core: 0.6 s and 1.6 s; the limit leaves room for a busy machine."""
    began = time.process_time()
    replay([1.0, 2.0] * 50_000, rule_from_text(text))
    assert time.process_time() - began < seconds
