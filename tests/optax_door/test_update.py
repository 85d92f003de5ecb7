"""The rule on the update: in Optax that is its place in the chain."""

import jax
import jax.numpy as jnp
import optax

from gradclip import ClipGradByGlobalNorm, NormGrowth
from gradclip.optax import clip


def moved(tx, gradients):
    """Where a weight of 0 is after each compiled step."""
    params, step = jnp.zeros(1), jax.jit(tx.update)
    state, seen = tx.init(params), []
    for gradient in gradients:
        updates, state = step(jnp.array([gradient]), state, params)
        params = optax.apply_updates(params, updates)
        seen.append(params.item())
    return seen


def test_after_the_optimizer_it_clips_what_the_optimizer_made():
    """With momentum 1 the second update is 3 + 4 = 7; before the optimizer, 4 is clipped to nothing less."""
    rule = clip(ClipGradByGlobalNorm(5.0))
    assert moved(optax.chain(optax.sgd(1.0, momentum=1.0), rule), [3.0, 4.0]) == [-3.0, -8.0]
    assert moved(optax.chain(rule, optax.sgd(1.0, momentum=1.0)), [3.0, 4.0]) == [-3.0, -10.0]


def test_a_threshold_follows_the_updates():
    """Fira's limiter: an update of 1 may grow to 2, and 2 to 4."""
    assert moved(optax.chain(optax.sgd(1.0), clip(NormGrowth(2.0))), [1.0, 9.0, 9.0]) == [-1.0, -3.0, -7.0]
