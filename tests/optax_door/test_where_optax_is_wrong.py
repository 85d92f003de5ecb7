"""Pins of what Optax does beside what gradclip does; a pin that breaks says that Optax was mended."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradclip import ClipGradByGlobalNorm, ClipGradByNorm
from gradclip.optax import clip
from gradclip.testing.drawn_gradients import ordinary_gradients


def by(tx, *leaves):
    """The leaves after one compiled step, in float64, and the state."""
    updates, state = jax.jit(tx.update)(leaves, tx.init(leaves))
    return [np.asarray(leaf, np.float64) for leaf in updates], state


def norm(leaves):
    return float(np.sqrt(sum((np.asarray(leaf, np.float64) ** 2).sum() for leaf in leaves)))


def both(limit, *leaves):
    """What Optax makes of the leaves, and what gradclip does."""
    theirs, _ = by(optax.clip_by_global_norm(limit), *leaves)
    ours, state = by(clip(ClipGradByGlobalNorm(limit)), *leaves)
    return theirs, ours, state.last


def test_where_optax_is_right_both_agree():
    """Two float32 factors and one product: 3 roundings each."""
    leaves = [jnp.asarray(values, jnp.float32) for values in ordinary_gradients()]
    for limit in (0.5, 1e9):
        theirs, ours, _ = both(limit, *leaves)
        for one, other in zip(theirs, ours, strict=True):
            np.testing.assert_allclose(one, other, rtol=6 * 2.0**-24 + 1e-6)


def test_many_bfloat16_leaves_are_summed_in_float32():
    """The norm of 181 and 20,000 normal numbers is near 230; Optax adds the squares in bfloat16 and stops at 183."""
    random = np.random.default_rng(0)
    leaves = tuple(jnp.asarray(random.standard_normal(100), jnp.bfloat16) for _ in range(200))
    leaves = (jnp.array([181.0], jnp.bfloat16), *leaves)
    tx = optax.clip_by_global_norm(1.0)
    assert norm(tx.update(leaves, tx.init(leaves))[0]) > 1.2
    ours, state = by(clip(ClipGradByGlobalNorm(1.0)), *leaves)
    assert float(state.last.norm_before) == pytest.approx(norm(leaves), rel=1e-6)
    assert norm(ours) == pytest.approx(1.0, rel=2.0**-9)  # each leaf is rounded to bfloat16 once


def test_finite_gradients_whose_squares_overflow_are_clipped_and_not_zeroed():
    for values, dtype in ([1e25, -1e25], jnp.float32), ([300.0, 400.0], jnp.float16), ([1e25, -1e25], jnp.bfloat16):
        theirs, ours, last = both(1.0, jnp.array(values, dtype))
        assert not np.any(theirs[0])
        assert norm(ours) == pytest.approx(1.0, rel=2.0**-8)
        assert int(last.nonfinite) == 0


def test_an_infinite_limit_measures_only():
    theirs, ours, last = both(np.inf, jnp.array([3e25, 4e25]))
    assert np.isnan(theirs[0]).all()
    np.testing.assert_array_equal(ours[0], np.float32([3e25, 4e25]))
    assert float(last.norm_before) == pytest.approx(5e25, rel=1e-6)


def test_a_small_gradient_whose_square_underflows_is_clipped():
    theirs, ours, _ = both(1e-32, jnp.array([3e-30, 4e-30]))
    assert norm(theirs) > 4e-30  # as it came
    np.testing.assert_allclose(ours[0], [0.6e-32, 0.8e-32], rtol=1e-6)


def test_a_nan_does_not_spread():
    theirs, ours, last = both(1.0, jnp.array([np.nan, 3.0]), jnp.array([4.0]))
    assert np.isnan(np.concatenate(theirs)).all()
    np.testing.assert_array_equal(np.concatenate(ours), [np.nan, 3.0, 4.0])
    assert int(last.nonfinite) == 1


def test_a_limit_of_zero_or_below_is_refused():
    zeros, _ = by(optax.clip_by_global_norm(0.0), jnp.zeros(2))
    turned, _ = by(optax.clip_by_global_norm(-1.0), jnp.array([3.0, 4.0]))
    assert np.isnan(zeros[0]).all()
    np.testing.assert_allclose(turned[0], [-0.6, -0.8], rtol=1e-6)
    for limit in (0.0, -1.0, np.nan):
        with pytest.raises(ValueError, match="clip_norm must be above 0"):
            clip(ClipGradByGlobalNorm(limit))


def test_the_derivative_at_zero_is_the_identity():
    def total(tx):
        return lambda g: tx.update(g, tx.init(g))[0].sum()

    assert np.isnan(jax.grad(total(optax.clip_by_global_norm(1.0)))(jnp.zeros(2))).all()
    assert jax.grad(total(clip(ClipGradByGlobalNorm(1.0))))(jnp.zeros(2)).tolist() == [1.0, 1.0]


def test_by_block_optax_zeroes_what_it_cannot_square():
    theirs, _ = by(optax.clip_by_block_rms(1.0), jnp.array([1e25, 1e25]))
    ours, _ = by(clip(ClipGradByNorm(1.0)), jnp.array([1e25, 1e25]))
    assert not theirs[0].any()
    np.testing.assert_allclose(ours[0], [0.5**0.5] * 2, rtol=1e-6)
