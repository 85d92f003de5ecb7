"""What Optax's own tests ask of its clipping, asked of `gradclip.optax` beside the installed Optax.

Source: google-deepmind/optax, optax/transforms/_clipping_test.py (ClippingTest: test_clip, test_clip_by_block_rms,
test_clip_by_global_norm, test_adaptive_grad_clip, test_adaptive_grad_clip_with_axis, test_unitwise_norm_with_axis,
test_per_example_global_norm_clip, test_per_example_layer_norm_clip). Their fifty limits are 1, 1/2 .. 1/50; here some
of them. Tests called `test_differs_...` are listed in docs/peers.md.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradclip import AGC, BlockRMS, ClipGradByGlobalNorm, ClipGradByNorm, ClipGradByValue, Rules
from gradclip.optax import clip

PARAMS = (jnp.array([1.0, 2.0]), jnp.array([3.0, 4.0]))
UPDATES = (jnp.array([500.0, 5.0]), jnp.array([300.0, 3.0]))
DIVISORS = range(1, 51, 7)
# Each side measures to 1e-6 or to a few roundings of float32, and rounds coefficient and product once.
CLOSE = 1e-6 + 8 * 2.0**-24


def stepped(tx, updates, params=None):
    """The updates of one compiled step."""
    return jax.jit(lambda *given: tx.update(given[0], tx.init(updates), *given[1:])[0])(updates, params)


def assert_close(ours, theirs):
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(np.asarray(one, np.float64), np.asarray(other, np.float64), rtol=CLOSE)


def norm(*leaves):
    return float(np.sqrt(sum((np.asarray(leaf, np.float64) ** 2).sum() for leaf in leaves)))


def unit_norms(leaf, axes):
    return np.sqrt((np.asarray(leaf, np.float64) ** 2).sum(axes))


@pytest.mark.parametrize(("limit", "expected"), [(1e6, UPDATES), (1.0, jax.tree.map(jnp.ones_like, UPDATES))])
def test_by_value_a_wide_bound_changes_nothing_and_1_gives_ones(limit, expected):
    for tx in (clip(ClipGradByValue(limit)), optax.clip(limit)):
        for found, wanted in zip(stepped(tx, UPDATES), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)


MEASURES = {
    "block RMS": (BlockRMS, optax.clip_by_block_rms, lambda leaves: [norm(x) / x.size**0.5 for x in leaves]),
    "global norm": (ClipGradByGlobalNorm, optax.clip_by_global_norm, lambda leaves: [norm(*leaves)]),
}


@pytest.mark.parametrize("name", MEASURES)
def test_clipping_what_was_clipped_is_clipping_the_first_gradients(name):
    rule, theirs, measure = MEASURES[name]
    step = jax.jit(lambda limit, updates: stepped(clip(rule(limit)), updates))
    other = jax.jit(lambda limit, updates: stepped(theirs(limit), updates))
    again = UPDATES
    for limit in [1.0 / i for i in DIVISORS]:
        again, at_once = step(limit, again), step(limit, UPDATES)
        assert measure(again) == pytest.approx([limit] * len(measure(again)), rel=CLOSE)
        # What was clipped i times was rounded i times, here 8 at most.
        np.testing.assert_allclose(np.concatenate(again), np.concatenate(at_once), rtol=8 * CLOSE)
        assert_close(at_once, other(limit, UPDATES))


@pytest.mark.parametrize("divisor", [1, 7, 50])
def test_adaptive_clipping_keeps_the_updates_below_a_share_of_the_weights(divisor):
    ratio = 1.0 / divisor
    ours = stepped(clip(AGC(ratio)), UPDATES, PARAMS)
    for update, weights in zip(ours, PARAMS, strict=True):
        assert norm(update) == pytest.approx(ratio * norm(weights), rel=CLOSE)
    assert_close(ours, stepped(optax.adaptive_grad_clip(ratio), UPDATES, PARAMS))
    assert_close(stepped(clip(AGC(ratio)), ours, PARAMS), ours)


UNITS = {
    "2 x 2": (jnp.array([[1.0, 2.0], [3.0, 4.0]]), 1.0, (0,)),
    "5 x 6": (jnp.full((5, 6), 3.0), 0.5, (0,)),
    "a convolution of 2 axes": (jnp.arange(1.0, 145.0).reshape(2, 3, 4, 6), 0.5, (0, 1, 2)),
    "a convolution of 3 axes": (jnp.arange(1.0, 97.0).reshape(2, 2, 2, 3, 4), 0.5, (0, 1, 2, 3)),
    "small": (jnp.full((2, 2, 2, 3, 4), 0.1), 2.0, (0, 1, 2, 3)),
}


@pytest.mark.parametrize("name", UNITS)
def test_adaptive_clipping_takes_the_last_axis_for_the_units(name):
    gradient, ratio, axes = UNITS[name]
    weights = jnp.ones_like(gradient)
    (ours,) = stepped(clip(AGC(ratio)), [gradient], [weights])
    allowed = np.minimum(ratio * unit_norms(weights, axes), unit_norms(gradient, axes))
    np.testing.assert_allclose(unit_norms(ours, axes), allowed, rtol=CLOSE)
    assert_close([ours], stepped(optax.adaptive_grad_clip(ratio), [gradient], [weights]))


def per_example(rule, gradients):
    """The sum over the examples of their clipped gradients, and for each example what `last` says."""
    tx = clip(rule)
    updates, state = jax.jit(jax.vmap(lambda example: tx.update(example, tx.init(example))))(gradients)
    return [leaf.sum(0) for leaf in updates], state.last


def test_each_example_is_clipped_under_vmap():
    gradients = [
        jnp.array([[0.0, -0.5], [3.0, 4.0], [5.0, 6.0], [0.0, 0.0]]),
        jnp.array([[0.0], [5.0], [-3.0], [0.0]]),
    ]
    sums, last = per_example(ClipGradByGlobalNorm(1.0), gradients)
    expected = [[3 / 50**0.5 + 5 / 70**0.5, -0.5 + 4 / 50**0.5 + 6 / 70**0.5], [5 / 50**0.5 - 3 / 70**0.5]]
    for found, wanted in zip(sums, expected, strict=True):
        # Sums of numbers up to 1.4, of which each term has the error `CLOSE`.
        np.testing.assert_allclose(np.asarray(found, np.float64), wanted, atol=2 * CLOSE)
    theirs, clipped = optax.per_example_global_norm_clip(gradients, 1.0)
    for found, wanted in zip(sums, theirs, strict=True):
        np.testing.assert_allclose(found, wanted, atol=2 * CLOSE)
    assert int(last.clipped.sum()) == int(clipped) == 2


LAYERS = {
    # The limit sqrt(2) shared alike by two layers is 1 each: 0.5 + 1 - 1 + 1, and 18 ones of norm sqrt(18) become 1.
    "uniform": (2**0.5, True, {"0": 1.0, "1": 1.0}, [1.5, 4 / 18**0.5]),
    # By the layers' sizes 1 and 18, sqrt(19) is 1 and sqrt(18), which the second layer has just.
    "scaled": (19**0.5, False, {"0": 1.0, "1": 18**0.5}, [1.5, 4.0]),
}


@pytest.mark.parametrize("name", LAYERS)
def test_each_layer_of_each_example_is_clipped_under_vmap(name):
    limit, uniform, limits, expected = LAYERS[name]
    gradients = [jnp.array([[0.5], [1.5], [-2.0], [3.0]]), jnp.ones((4, 3, 3, 2))]
    rules = Rules({leaf: ClipGradByNorm(bound) for leaf, bound in limits.items()})
    sums, _ = per_example(rules, gradients)
    theirs, _ = optax.per_example_layer_norm_clip(gradients, limit, uniform=uniform)
    for found, wanted, other in zip(sums, expected, theirs, strict=True):
        np.testing.assert_allclose(found, np.full(found.shape, wanted), rtol=4 * CLOSE)
        np.testing.assert_allclose(found, other, rtol=4 * CLOSE)


def test_units_may_have_two_axes():
    """Optax names the axes that a norm is summed over, gradclip those that are kept."""
    gradient, weights = jnp.arange(96.0).reshape(2, 2, 2, 3, 4), jnp.ones((2, 2, 2, 3, 4))
    theirs = stepped(optax.adaptive_grad_clip(0.5, axis=(0, 1, 2)), [gradient], [weights])
    assert_close(stepped(clip(AGC(0.5, axis=(3, 4))), [gradient], [weights]), theirs)


def test_differs_weights_of_six_axes_have_the_units_of_the_last():
    gradient, weights = jnp.arange(1.0, 65.0).reshape((2,) * 6), jnp.ones((2,) * 6)
    with pytest.raises(ValueError):
        stepped(optax.adaptive_grad_clip(0.5), [gradient], [weights])
    (ours,) = stepped(clip(AGC(0.5)), [gradient], [weights])
    # 32 weights of 1 in each unit.
    np.testing.assert_allclose(unit_norms(ours, (0, 1, 2, 3, 4)), [0.5 * 32**0.5] * 2, rtol=CLOSE)


def test_update_without_a_state_clips():
    """Optax's tests call `update(updates, None)`, for its clips have no state."""
    theirs, _ = optax.clip_by_global_norm(1.0).update(UPDATES, None)
    ours, _ = clip(ClipGradByGlobalNorm(1.0)).update(UPDATES, None)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=CLOSE), ours, theirs)
