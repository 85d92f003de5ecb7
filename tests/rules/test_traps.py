"""Where the adaptive methods go wrong as they were published, and what becomes of it here.

Each test shows the original's failure first, so that the cure is known to cure something.
"""

from __future__ import annotations

import io
import json
import math

import numpy as np
import pytest
import torch

import originals
from gradclip import AdaGC, AutoClip, EMARatio, PercentileClip, SkipSpikes, ZClip
from gradclip.clipper import Clipper
from gradclip.rules.catalogue import methods
from gradclip.step.gradients import Gradients
from gradclip.testing import REFERENCE
from profiles import (
    BURST,
    EVENT,
    LEVEL,
    NOISY,
    QUIET,
    lognormal,
    profile,
    reach,
    replaced,
    shifted,
    shown_rule,
    spiked,
)

METHODS = {name: shown_rule(method) for name, method in methods().items()}
REMEMBERING = {name: rule for name, rule in METHODS.items() if " numbers for " in methods()[name].state}
WITHOUT_UNITS = {name: METHODS[name] for name in ("AutoClip", "ZClip", "AdaGC", "EMARatio", "PercentileClip")} | {
    name: METHODS[name] for name in ("NormGrowth", "QuantileClip", "SkipSpikes")
}

every = pytest.mark.parametrize("rule", METHODS.values(), ids=METHODS)
remembering = pytest.mark.parametrize("rule", REMEMBERING.values(), ids=REMEMBERING)
broken = pytest.mark.parametrize("value", [math.nan, math.inf])

ORDINARY = lognormal(QUIET)
WEIGHTS = [np.array([1.0]), np.array([1.0, 1.0])]


def with_one(value):
    """Ordinary norms with one that is not finite at `EVENT` and a spike 100 steps later."""
    return replaced(spiked(ORDINARY, [EVENT + 100]), {EVENT: value})


def clipped_steps(outputs, norms):
    return np.flatnonzero(~(outputs >= norms * (1.0 - 1e-9)))


# One NaN or infinity


@remembering
def test_a_norm_that_is_not_finite_enters_no_memory(rule):
    """All goes on as if the step had not been, bit for bit."""
    expected = profile(rule, np.delete(with_one(math.nan), EVENT))
    for value in (math.nan, math.inf):
        found = profile(rule, with_one(value))
        np.testing.assert_array_equal(np.delete(found.thresholds, EVENT), expected.thresholds)
        np.testing.assert_array_equal(np.delete(found.outputs, EVENT), expected.outputs)


def test_autoclip_turns_every_gradient_into_nan_after_one():
    original = originals.clipped(originals.AutoClip(), with_one(math.nan))
    assert np.isnan(original[EVENT:]).all()
    ours = profile(AutoClip(), with_one(math.nan)).outputs
    assert np.flatnonzero(~np.isfinite(ours)).tolist() == [EVENT]


def test_zclip_is_off_after_one_nan():
    norms = with_one(math.nan)
    original = originals.clipped(originals.ZClip(), norms)
    assert original[EVENT + 100] == norms[EVENT + 100] > 40 * LEVEL
    ours = profile(ZClip(max_norm=None), norms).outputs
    assert ours[EVENT + 100] < 1.5 * LEVEL


@broken
def test_one_bad_norm_makes_the_skip_step_of_olmo_skip_129_steps(value):
    norms = replaced(ORDINARY, {EVENT: value})
    original = originals.coefficients(originals.SkipStep(), norms)
    assert np.flatnonzero(original == 0).tolist() == list(range(EVENT, EVENT + 129))
    ours = profile(SkipSpikes(max_norm=None), norms).outputs
    assert not (ours == 0).any()


def test_adagc_never_clips_a_tensor_again_after_one_nan():
    norms = with_one(math.nan)
    original = originals.clipped(originals.AdaGC(max_norm=math.inf), norms)
    assert original[EVENT + 100] == norms[EVENT + 100] > 40 * LEVEL
    assert profile(AdaGC(max_norm=None), norms).outputs[EVENT + 100] < 1.5 * LEVEL


def test_the_ratio_of_olmo_turns_every_gradient_into_nan_after_one():
    original = originals.clipped(originals.EMARatio(), with_one(math.nan))
    assert np.isnan(original[EVENT:]).all()
    assert profile(EMARatio(), with_one(math.nan)).outputs[EVENT + 100] < 2.5 * LEVEL


# A lasting change of level, and a burst


@pytest.mark.parametrize("factor", [2.0, 10.0])
def test_zclip_clips_a_new_level_for_ever_and_ours_takes_it_up(factor):
    norms = shifted(lognormal(QUIET, EVENT + 8000), factor)
    original = originals.clipped(originals.ZClip(), norms)
    assert original[EVENT:].max() < 1.2 * LEVEL
    assert reach(ZClip(max_norm=None, readmit=None), factor) is None
    assert 25 <= reach(ZClip(max_norm=None), factor) <= 28
    assert reach(ZClip(max_norm=None, feed="raw"), factor) <= 5


def test_a_burst_of_ten_bad_steps_is_still_clipped():
    norms = spiked(ORDINARY, BURST)
    ours = profile(ZClip(max_norm=None), norms)
    assert ours.outputs.max() < 1.5 * LEVEL
    raw = profile(ZClip(max_norm=None, feed="raw"), norms)
    assert raw.outputs.max() > 40 * LEVEL


def test_after_a_burst_the_next_spike_is_clipped_as_before():
    norms = spiked(ORDINARY, [*BURST, BURST.stop + 20])
    assert profile(ZClip(max_norm=None), norms).outputs[BURST.stop + 20] < 1.5 * LEVEL


# What looks like clipping and is not


NOISES = {0.1: (0.42, 0.97), 0.3: (0.70, 0.78), 0.7: (0.82, 0.44)}
"""By the coefficient of variation of the norms of a tensor: its rate of clipped steps, and what AdaGC keeps."""


@pytest.fixture(scope="module")
def noisy():
    """The norms of a tensor of each noise, and what comes out of the original and of ours, step by step."""
    norms = np.stack([lognormal(variation, 5000) for variation in NOISES], axis=1)
    clipper, steps = Clipper(AdaGC(max_norm=None)), [list(step.reshape(-1, 1).copy()) for step in norms]
    for tensors in steps:
        clipper.clip_gradients(Gradients(tensors, str), REFERENCE.engine)
    return norms, originals.clipped(originals.AdaGC(max_norm=math.inf), norms), np.array(steps)[..., 0]


@pytest.mark.parametrize("variation", NOISES)
def test_adagc_shrinks_what_is_noisy(noisy, variation):
    """It is the method, so the same in both. The deviation of a rate over 3000 steps is 0.01."""
    rate, kept = NOISES[variation]
    norms, *found = (of_all[2000:, list(NOISES).index(variation)] for of_all in noisy)
    for outputs in found:
        assert len(clipped_steps(outputs, norms)) / 3000 == pytest.approx(rate, abs=0.03)
        assert outputs.sum() / norms.sum() == pytest.approx(kept, abs=0.02)


def test_bitsandbytes_multiplies_by_zero_while_its_ring_fills():
    original = originals.clipped(originals.PercentileClip(5), ORDINARY)
    assert np.flatnonzero(original == 0).tolist() == list(range(94))
    ours = profile(PercentileClip(5), ORDINARY)
    assert ours.outputs.min() > 0.5 * LEVEL
    assert ours.thresholds[:94].max() < 1.5 * LEVEL


@every
def test_no_ordinary_step_is_multiplied_by_zero(rule):
    for variation in (QUIET, NOISY):
        assert (profile(rule, lognormal(variation, 200)).outputs > 0).all()


def test_adagc_freezes_an_expert_that_was_cold_in_the_warm_up():
    """All gradients are 0 for 150 steps, longer than the warm-up of 100; ours warms up then, and clips a spike."""
    norms = np.where(np.arange(400) < 150, 0.0, spiked(ORDINARY, [300]))
    original = originals.clipped(originals.AdaGC(max_norm=math.inf), norms)
    assert (original == 0).all()
    ours = profile(AdaGC(max_norm=None), norms).outputs
    assert (ours[150:] > 0.5 * LEVEL).all()
    assert ours[300] < 1.5 * LEVEL


# Memory


@remembering
def test_a_memory_does_not_grow(rule):
    clipper = clipper_after(rule, lognormal(QUIET, 50))
    early = numbers_in(clipper.state_dict())
    go_on(clipper, lognormal(QUIET, 1950, seed=1))
    assert numbers_in(clipper.state_dict()) == early


def test_autoclip_remembers_every_norm():
    original = originals.AutoClip()
    originals.clipped(original, ORDINARY)
    assert len(original.norms) == len(ORDINARY)


def through_json(state):
    return json.loads(json.dumps(state))


def through_torch(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("way", [dict, through_json, through_torch], ids=["state_dict", "json", "torch.save"])
@remembering
def test_in_the_middle_of_a_warm_up_a_restored_clipper_goes_on_bit_for_bit(rule, way):
    """At step 20 every warm-up is under way; all are over at step 150."""
    norms = spiked(lognormal(QUIET, 150), [30, 60, 140])
    whole = clipper_after(rule, norms[:20])
    resumed = Clipper(rule)
    resumed.load_state_dict(way(whole.state_dict()))
    np.testing.assert_array_equal(go_on(resumed, norms[20:]), go_on(whole, norms[20:]))
    assert resumed.state_dict() == whole.state_dict()


@remembering
def test_a_state_of_another_rule_is_refused_by_name(rule):
    state = clipper_after(rule, ORDINARY[:5]).state_dict()
    other = Clipper(ZClip(z=7.5))
    with pytest.raises(ValueError, match="this state belongs to the rule") as refused:
        other.load_state_dict(state)
    assert repr(rule) in str(refused.value)
    assert "7.5 standard deviations" in str(refused.value)


def clipper_after(rule, norms):
    clipper = Clipper(rule)
    go_on(clipper, norms)
    return clipper


def go_on(clipper, norms):
    """What comes out of two tensors, the second with a third of the norm of the first, step by step."""
    steps = [[np.array([norm]), np.array([norm / 3, 0.0])] for norm in norms]
    for tensors in steps:
        clipper.clip_gradients(Gradients(tensors, str, weights=lambda: WEIGHTS), REFERENCE.engine)
    return np.array([np.concatenate(tensors) for tensors in steps])


def numbers_in(state):
    if isinstance(state, dict | list):
        return sum(map(numbers_in, state.values() if isinstance(state, dict) else state))
    return int(isinstance(state, int | float))


# The unit of the loss


@pytest.mark.parametrize("rule", WITHOUT_UNITS.values(), ids=WITHOUT_UNITS)
def test_the_unit_of_the_loss_does_not_matter(rule):
    """Times a power of two all numbers keep their digits, so thresholds and outputs scale bit for bit."""
    norms = spiked(lognormal(NOISY), [120, *BURST])
    plain = profile(rule, norms)
    for factor in (2.0**-40, 2.0**40):
        scaled = profile(rule, factor * norms)
        np.testing.assert_array_equal(scaled.thresholds, factor * plain.thresholds)
        np.testing.assert_array_equal(scaled.outputs, factor * plain.outputs)


def test_an_epsilon_switches_the_published_zclip_off_where_the_loss_is_small():
    norms = spiked(ORDINARY, [EVENT])
    assert originals.clipped(originals.ZClip(), norms)[EVENT] < 1.5 * LEVEL
    small = originals.clipped(originals.ZClip(), 2.0**-40 * norms)
    assert small[EVENT] == 2.0**-40 * norms[EVENT]
