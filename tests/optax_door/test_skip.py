"""Skipping a step: with the optimizer inside, nothing of it moves."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradclip
from gradclip import ClipGradByGlobalNorm, ClipGradByNorm, Constant, SkipStep
from gradclip.optax import ClipState, check_skips, clip
from gradclip.optax.state import clip_states


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


def counted(flags: list[bool], transformation) -> list[int]:
    """How many steps in a row were skipped after each of these steps, of which some are bad."""
    state, update, found = transformation.init(PARAMS), jax.jit(transformation.update), []
    for bad in flags:
        _, state = update(jax.tree.map(lambda g, bad=bad: g * (jnp.nan if bad else 1.0), PARAMS), state, PARAMS)
        (clip_state,) = clip_states(state)
        found.append(int(clip_state.consecutive_skips))
    return found


PARAMS = {"w": jnp.ones(3), "b": jnp.ones(2)}
FLAGS = [False, True, True, False, True, True, True]


def test_the_state_counts_the_steps_skipped_in_a_row():
    wrapped = clip(ClipGradByGlobalNorm(1.0), inner=optax.adam(0.1), on_nonfinite="skip")
    assert counted(FLAGS, wrapped) == [0, 1, 2, 0, 1, 2, 3]
    assert counted(FLAGS, optax.chain(wrapped, optax.scale(1.0))) == [0, 1, 2, 0, 1, 2, 3]
    assert counted(FLAGS, clip(ClipGradByGlobalNorm(1.0))) == [0] * len(FLAGS)


def test_too_many_steps_skipped_in_a_row_raise_where_they_are_asked_for():
    inner = clip(ClipGradByGlobalNorm(1.0), inner=optax.sgd(0.1), on_nonfinite="skip")
    chain = optax.chain(optax.identity(), clip(ClipGradByNorm(1.0), inner=inner))
    state = chain.init(PARAMS)
    check_skips(state, 0)
    for _ in range(3):
        _, state = chain.update(jax.tree.map(lambda g: g * jnp.inf, PARAMS), state, PARAMS)
    check_skips(state, 3)
    check_skips(state, None)
    with pytest.raises(
        gradclip.TooManySkips, match=r"3 steps in a row were skipped, the last at step 2, more than .*=2"
    ):
        check_skips(state, 2)


def test_a_state_without_a_clip_or_a_limit_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"no state of gradclip\.optax\.clip in it"):
        check_skips(optax.sgd(0.1).init(PARAMS), 3)
    with pytest.raises(ValueError, match="max_consecutive_skips is a whole number"):
        check_skips(clip(ClipGradByGlobalNorm(1.0)).init(PARAMS), -1)


def test_a_state_of_an_older_version_goes_on():
    transformation = clip(ClipGradByGlobalNorm(1.0), inner=optax.sgd(0.1), on_nonfinite="skip")
    state = ClipState(*transformation.init(PARAMS)[:5])
    _, state = jax.jit(transformation.update)(jax.tree.map(lambda g: g * jnp.nan, PARAMS), state, PARAMS)
    assert int(state.consecutive_skips) == 1
