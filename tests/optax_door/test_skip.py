"""Skipping a step: with the optimizer inside, nothing of it moves."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradclip
from gradclip import ClipGradByGlobalNorm, Constant, SkipStep
from gradclip.optax import clip


def bits(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def walk(tx, gradients):
    """Compiled steps from zeros; the parameters and states after each."""
    params = {"w": jnp.zeros(2)}
    state, seen = tx.init(params), []
    step = jax.jit(tx.update)
    for g in gradients:
        updates, state = step({"w": jnp.array(g)}, state, params)
        params = optax.apply_updates(params, updates)
        seen.append((params, state))
    return seen


@pytest.mark.parametrize("bad", [[np.nan, 1.0], [np.inf, 1.0]])
def test_a_skipped_step_moves_neither_the_parameters_nor_the_optimizer(bad):
    tx = clip(ClipGradByGlobalNorm(1.0), inner=optax.adam(0.1), on_nonfinite="skip")
    (before, first), (after, second), (_, third) = walk(tx, [[3.0, 4.0], bad, [3.0, 4.0]])
    assert bits(before) == bits(after)
    assert bits(first.inner) == bits(second.inner)
    assert (bool(first.last.skipped), bool(second.last.skipped), bool(third.last.skipped)) == (False, True, False)
    assert float(second.last.norm_after) == 0.0
    assert int(third.inner[0].count) == 2


def test_a_skipped_step_is_as_if_it_had_not_been():
    rule = gradclip.Rule(threshold=Constant(10.0), response=SkipStep())
    with_spike = walk(clip(rule, inner=optax.adam(0.1)), [[3.0, 4.0], [300.0, 400.0], [1.0, 0.0]])
    without = walk(clip(rule, inner=optax.adam(0.1)), [[3.0, 4.0], [1.0, 0.0]])
    assert bits(with_spike[-1][0]) == bits(without[-1][0])
    assert bits(with_spike[-1][1].inner) == bits(without[-1][1].inner)


def test_an_inner_optimizer_gets_the_clipped_gradients():
    wrapped = walk(clip(ClipGradByGlobalNorm(1.0), inner=optax.adam(0.1)), [[3.0, 4.0], [0.1, 0.1]])
    chained = walk(optax.chain(clip(ClipGradByGlobalNorm(1.0)), optax.adam(0.1)), [[3.0, 4.0], [0.1, 0.1]])
    assert bits(wrapped[-1][0]) == bits(chained[-1][0])
