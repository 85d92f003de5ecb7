"""The named methods against numbers worked out by hand."""

import math
import warnings

import numpy as np
import pytest

import gradclip
from gradclip import (
    AGC,
    LARC,
    AdaGC,
    AutoClip,
    BlockRMS,
    EMARatio,
    NormalizedGradient,
    NormGrowth,
    PercentileClip,
    QuantileClip,
    Schedule,
    SkipSpikes,
    SmoothClip,
    ZClip,
)
from gradclip.clipper import Clipper
from gradclip.engines.reference import ReferenceEngine
from gradclip.step.gradients import Gradients

ENGINE = ReferenceEngine()
INF = math.inf


def clipped(rule, *gradients, weights=()):
    """The gradients after one clip."""
    tensors = [np.array(gradient, dtype=float) for gradient in gradients]
    given = [np.array(weight, dtype=float) for weight in weights]
    Clipper(rule).clip_gradients(Gradients(tensors, lambda i: f"t{i}", None, lambda: given), ENGINE)
    return [tensor.tolist() for tensor in tensors]


def steps(rule, norms):
    """Threshold and norm after clipping, step after step, of one gradient with these norms."""
    clipper, found = Clipper(rule), []
    for norm in norms:
        tensors = [np.array([float(norm)])]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = clipper.clip_gradients(Gradients(tensors, "w".__getitem__), ENGINE)
        found.append((result.segments[-1].threshold, float("nan") if result.skipped else abs(tensors[0].item())))
    return found


def test_agc_gives_each_output_unit_a_share_of_its_weights():
    """Rows of norm 5 and 1 with weights of norm 10 and 0: 0.1 of each, or of the floor; a bias is one unit."""
    matrix, bias = clipped(AGC(0.1, 1e-3), [[3, 4], [0.6, 0.8]], [3, 4], weights=([[6, 8], [0, 0]], [30, 40]))
    assert matrix[0] == pytest.approx([0.6, 0.8])
    assert matrix[1] == pytest.approx([0.6e-4, 0.8e-4])
    assert bias == [3, 4]


def test_agc_leaves_out_what_is_excluded_by_name():
    assert clipped(AGC(0.1, exclude="t1"), [3, 4], [3, 4], weights=([6, 8], [6, 8])) == [
        pytest.approx([0.6, 0.8]),
        [3, 4],
    ]
    both = AGC(0.1, exclude=["t0", "t1"])
    assert clipped(both, [3, 4], [3, 4], weights=([6, 8], [6, 8])) == [[3, 4], [3, 4]]


def test_larc_bounds_the_step_of_plain_descent():
    """0.02 of weights of norm 10, with a learning rate of 0.1: a gradient of at most 2."""
    assert clipped(LARC(0.02, lr=0.1), [3, 4], weights=([6, 8],)) == [pytest.approx([1.2, 1.6])]
    assert clipped(LARC(0.02, lr=0.1), [3, 4], weights=([0, 0],)) == [[3, 4]]


def test_autoclip_is_a_percentile_of_the_norms_so_far():
    found = [limit for limit, _ in steps(AutoClip(50), [4, 2, 9, 1])]
    assert found == [4, 3, 4, 3]


def test_zclip_clips_an_outlier_to_the_reciprocal_level():
    """Mean 2 and deviation 1 after 1 and 3; a norm of 12 is 10 deviations off: 2 + 2.5 * 2.5 / 10."""
    assert steps(ZClip(warmup=2, max_norm=None), [1, 3, 12])[-1] == pytest.approx((2.625, 2.625))
    assert steps(ZClip(warmup=2, max_norm=None), [1, 3, 4.4])[-1] == (INF, 4.4)
    assert steps(ZClip(warmup=2), [1, 3, 4.4]) == [(1, 1), (1, 1), (1, 1)]


def test_zclip_learns_the_limit_and_after_readmit_outliers_the_norm():
    rule = ZClip(alpha=0.5, warmup=2, max_norm=None, readmit=3)
    outputs = [out for _, out in steps(rule, [1, 3, 50, 50, 50, 50, 50])]
    assert max(outputs[2:5]) < 4
    assert outputs[5:] == [50, 50]


def test_adagc_clips_all_together_in_the_warm_up_then_each_tensor():
    """Two steps of norm 2 and 0.5 under a limit of 1 leave 1 and 0.5: gamma is 0.5, then 0.98 * 0.5 + 0.02 * 0.525."""
    found = steps(AdaGC(warmup=2), [2, 0.5, 7, 7])
    assert found[0] == (INF, 1.0)
    assert found[2] == pytest.approx((1.05 * 0.5, 1.05 * 0.5))
    gamma = 0.98 * 0.5 + 0.02 * 1.05 * 0.5
    assert found[3] == pytest.approx((1.05 * gamma, 1.05 * gamma))


def test_ema_ratio_follows_the_clipped_norm():
    assert steps(EMARatio(2.0, 0.5), [1, 8, 8]) == [(INF, 1), (2, 2), (3, 3)]


def test_skip_spikes_skips_and_clips_all_others():
    """Mean 2 and unbiased deviation 1 of 1, 2, 3: 5 is 3 deviations off."""
    found = steps(SkipSpikes(2.5, window=3, warmup=3, max_norm=1.5), [1, 2, 3, 5, 4])
    assert [out for _, out in found[:3]] == [1, 1.5, 1.5]
    assert math.isnan(found[3][1])
    assert found[4][1] == 1.5


def test_percentile_clip_looks_at_the_last_norms():
    assert [limit for limit, _ in steps(PercentileClip(50, window=2), [4, 2, 9])] == [4, 3, 5.5]


def test_norm_growth_is_bounded_by_the_norm_it_left():
    assert steps(NormGrowth(1.5), [2, 8, 8, 1, 8]) == [(INF, 2), (3, 3), (4.5, 4.5), (6.75, 1), (1.5, 1.5)]


def test_quantile_clip_walks():
    up = math.exp(0.1)
    assert steps(QuantileClip(0.5, 0.2), [1, 9, 9]) == [(INF, 1), (1, 1), pytest.approx((up, up))]


def test_block_rms_measures_per_element():
    assert clipped(BlockRMS(2.5), [3, 4, 3, 4], [1, 1]) == [pytest.approx([3 / 2**0.5, 4 / 2**0.5] * 2), [1, 1]]


def test_a_normalised_gradient_has_one_norm_from_above_and_below():
    assert clipped(NormalizedGradient(10.0), [0.3, 0.4]) == [pytest.approx([6, 8])]
    assert clipped(NormalizedGradient(1.0, each_tensor=True), [3, 4], [0, 0]) == [pytest.approx([0.6, 0.8]), [0, 0]]


def test_smooth_clipping_stays_below_its_threshold():
    assert clipped(SmoothClip(5.0), [3, 4]) == [[1.5, 2.0]]
    assert clipped(SmoothClip(5.0, "sqrt", each_tensor=True), [3, 4]) == [pytest.approx([3 / 2**0.5, 4 / 2**0.5])]


def test_thresholds_of_recipes_may_follow_the_step():
    assert [limit for limit, _ in steps(BlockRMS(Schedule((0, 4.0), (2, 2.0))), [1, 1, 1])] == [4, 3, 2]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AutoClip(150), r"a percentile lies in \[0, 100\], got 150: write 10"),
        (lambda: PercentileClip("95"), "got '95'"),
        (lambda: LARC(lr=0.0), "lr is a number above 0 and finite, got 0.0: write 0.1"),
        (lambda: LARC(0.0), "trust_coefficient is a number above 0"),
        (lambda: ZClip(max_norm=0.0), "a threshold must be above 0, got 0.0"),
        (lambda: ZClip(feed="cooked"), "feed is one of"),
        (lambda: AGC(0.0), "the ratio to the weights is a number above 0"),
        (lambda: SkipSpikes(window=32), "the last 32 norms can never be 64 norms"),
    ],
)
def test_what_a_recipe_cannot_be_is_refused(make, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make()


def test_the_names_are_those_of_the_package():
    assert gradclip.AGC is AGC
