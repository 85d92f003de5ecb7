"""Profiles: what each method does to the same norms, as the docs hold it."""

from __future__ import annotations

import math

import numpy as np
import pytest

import make_methods
import profile_picture
from effort import only_long
from gradclip import AGC, LARC, ClipGradByGlobalNorm, Constant, Rule, SkipStep, ZClip
from gradclip.rules.catalogue import methods
from profiles import (
    BURST,
    EVENT,
    LEVEL,
    LONGEST,
    NOISY,
    QUIET,
    STEPS,
    Profile,
    burst,
    lognormal,
    method_record,
    noted_steps,
    on_every_stream,
    profile,
    reach,
    stream_records,
    streams,
)

LARGEST_PICTURE = 400_000


NAMES = [pytest.param(name, marks=only_long if place % 5 else ()) for place, name in enumerate(methods())]
"""Every fifth method in the short form."""


def test_the_streams_are_those_of_the_docs():
    assert make_methods.agree(stream_records(), make_methods.stored()["streams"])


@pytest.mark.parametrize("name", NAMES)
def test_a_method_does_what_the_docs_say(name):
    method, told = methods()[name], make_methods.stored()["methods"][name]
    found = method_record(method, on_every_stream(method))
    assert make_methods.agree(found, told)
    told["streams"]["spikes"]["output"][0] *= 1.01
    assert not make_methods.agree(found, told)


def test_the_docs_have_no_other_method():
    assert list(make_methods.stored()["methods"]) == list(methods())


@pytest.mark.parametrize("variation", [QUIET, NOISY])
def test_ordinary_norms_have_the_mean_and_variation_that_they_claim(variation):
    """Of 100000 norms a mean has a deviation of at most 0.7 / 316 = 0.2 % of itself, a variation one of about 0.6 %."""
    norms = lognormal(variation, 100_000)
    assert norms.mean() == pytest.approx(LEVEL, rel=0.01)
    assert norms.std() / norms.mean() == pytest.approx(variation, rel=0.03)


@pytest.mark.parametrize("name", ["spikes", "a burst of ten", "zeros, NaN, infinity"])
def test_no_bad_step_is_thinned_out(name):
    norms = streams()[name]
    ordinary = (norms > LEVEL / 2) & (norms < 2 * LEVEL)
    assert len(norms) == STEPS
    assert 0 < (~ordinary).sum() <= 12
    assert set(np.flatnonzero(~ordinary)) <= set(noted_steps(norms))


def test_a_profile_has_the_threshold_and_what_comes_out():
    found = profile(ClipGradByGlobalNorm(1.0), np.array([0.5, 4.0, math.nan, math.inf, 0.0]))
    assert found.thresholds.tolist() == [1.0] * 5
    np.testing.assert_array_equal(found.outputs, [0.5, 1.0, math.nan, math.inf, 0.0])


def test_a_skipped_step_puts_out_nothing():
    found = profile(Rule(threshold=Constant(1.0), response=SkipStep()), np.array([0.5, 4.0]))
    assert found.outputs.tolist() == [0.5, 0.0]


def test_it_is_summed_up_over_the_finite_steps_from_the_event_on():
    early = np.full(EVENT, 9.0)
    norms = np.concatenate([early, [1.0, 2.0, math.nan, 5.0]])
    outputs = np.concatenate([np.ones(EVENT), [1.0, 1.0, math.nan, 0.0]])
    found = Profile(norms, np.ones(len(norms)), outputs)
    assert found.clip_rate == pytest.approx(2 / 3)
    assert found.kept == pytest.approx(2 / 8)


@pytest.mark.parametrize("rule", [AGC(), LARC(), AGC(ratio=0.3)], ids=repr)
def test_a_threshold_relative_to_the_weights_is_one(rule):
    assert profile(rule, np.array([4.0])).outputs[0] == pytest.approx(1.0)


def test_what_clips_nothing_takes_up_a_level_at_once_and_what_is_fixed_never():
    assert reach(ClipGradByGlobalNorm(None), 10.0) == 0
    assert reach(ClipGradByGlobalNorm(1.0), 10.0) is None
    assert LONGEST > 2150  # AdaGC's


def test_a_burst_leaves_through_a_fixed_threshold_as_that():
    """1 is two ordinary norms of 0.5; without a threshold each bad step leaves as 50 times an ordinary one."""
    assert burst(ClipGradByGlobalNorm(1.0), 3) == pytest.approx(2.0)
    bad = 50 * lognormal(QUIET)[EVENT : EVENT + 3] / LEVEL
    assert burst(ClipGradByGlobalNorm(None), 3) == pytest.approx(bad.max())


@pytest.mark.parametrize(
    ("options", "reached", "leaves"),
    [
        ({"feed": "raw"}, (5, 5), (22, 57, 68)),
        ({"readmit": 5}, (8, 10), (1, 43, 68)),
        ({"readmit": 10}, (12, 12), (1, 1, 68)),
        ({"readmit": 25}, (27, 28), (1, 1, 1)),
        ({"readmit": 50}, (53, 53), (1, 1, 1)),
    ],
)
def test_zclip_is_as_its_decision_record_says(options, reached, leaves):
    rule = ZClip(max_norm=None, **options)
    assert (reach(rule, 2.0), reach(rule, 10.0)) == reached
    assert tuple(round(burst(rule, length)) for length in (3, 10, 20)) == leaves


def test_a_burst_as_long_as_readmit_makes_zclip_blind_and_a_shorter_one_does_not():
    norms = np.concatenate([lognormal(QUIET)[: BURST.stop + 20], [5.0 * LEVEL]])
    norms[list(BURST)] *= 50.0
    after = [profile(ZClip(max_norm=None, readmit=steps), norms).outputs[-1] / LEVEL for steps in (10, 25)]
    assert after[0] > 2.0 > after[1]


def test_the_picture_has_a_row_for_what_differs_and_a_column_for_each_stream():
    alike = ["BlockRMS", "ClipGradByGlobalNorm", "ClipGradByNorm", "AGC", "LARC"]
    found = {name: on_every_stream(methods()[name]) for name in [*alike, "ZClip"]}
    assert profile_picture.same_profiles(found) == [alike, ["ZClip"]]
    figure = profile_picture.draw({name: found[name] for name in ("AGC", "LARC", "ZClip")})
    assert len(figure.axes) == 2 * len(streams())
    assert figure.axes[0].get_ylabel() == "AGC\nLARC"


def test_the_picture_of_the_docs_is_small():
    data = make_methods.PICTURE.read_bytes()
    assert data.startswith(b"\x89PNG")
    assert len(data) < LARGEST_PICTURE
