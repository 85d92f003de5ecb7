"""Under strict promotion of types and ranks, and the flags of JAX that look for NaN and infinities."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from effort import LONG
from few import few_shapes
from gradclip import AutoClip, Constant, Raise, Rule, SkipStep, until
from gradclip.optax import clip, event_of
from gradclip.rules.rule import rules_in
from gradclip.testing import ordinary_gradients, standard_rules
from gradclip.testing.check import adaptive_rules

RULES = [rule for rule in standard_rules() if not any(isinstance(one.response, Raise) for one in rules_in(rule))]
ADAPTIVE = len(adaptive_rules())
DTYPES = (jnp.float32, jnp.bfloat16, jnp.float16)
LARGEST = float(np.finfo(np.float32).max)


def walked(rule, dtypes):
    """Three compiled steps on ordinary gradients, of which each is larger than the one before."""
    skips = any(isinstance(one.response, SkipStep) for one in rules_in(rule))
    tx = clip(rule, inner=optax.identity() if skips else None)
    gradients = {
        f"t{i}": jnp.asarray(x, dtypes[i % len(dtypes)]) for i, x in enumerate(few_shapes(ordinary_gradients()))
    }
    update, state, found = jax.jit(tx.update), tx.init(gradients), []
    for size in (1, 2, 3):
        sized = jax.tree.map(lambda g, size=size: g * size, gradients)
        updates, state = update(sized, state, gradients, loss=1.0, moments=jax.tree.map(jnp.square, gradients))
        found.append((updates, state))
    return found


def require_the_same_under_the_flags(rule, dtypes):
    """The same bits as without the flags, and the types of the gradients."""
    expected = walked(rule, dtypes)
    strict = jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise")
    with strict[0], strict[1], jax.debug_nans(True), jax.debug_infs(True):
        found = walked(rule, dtypes)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert jax.typeof(one) == jax.typeof(other)
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


@pytest.mark.parametrize(
    "rule", [*RULES[: -ADAPTIVE : 3 if LONG else 9], *RULES[-ADAPTIVE :: 1 if LONG else 2]], ids=repr
)
def test_a_compiled_step_makes_no_infinity_and_joins_no_two_types(rule):
    require_the_same_under_the_flags(rule, DTYPES)


def test_what_is_asked_of_the_flags_is_that_they_raise():
    with jax.numpy_dtype_promotion("strict"), pytest.raises(ValueError, match="promotion"):
        jnp.ones(1, jnp.float32) + jnp.ones(1, jnp.bfloat16)
    with jax.numpy_rank_promotion("raise"), pytest.raises(ValueError, match="rank_promotion"):
        jnp.ones((2, 2)) + jnp.ones(2)
    with jax.debug_infs(True), pytest.raises(FloatingPointError):
        jax.jit(lambda x: 1.0 / x)(jnp.zeros(()))


@pytest.mark.parametrize("rule", [Rule(threshold=Constant(None)), AutoClip(50), Rule(threshold=until(3, None, 1.0))])
def test_where_there_is_no_threshold_it_is_the_largest_number_and_infinite_in_an_event(rule):
    tx = clip(rule)
    before = tx.init({"a": jnp.zeros(2)})
    _, after = jax.jit(tx.update)({"a": jnp.array([3.0, 4.0])}, before)
    for state in (before, after):
        if isinstance(rule.threshold, type(AutoClip(50).threshold)) and state is after:
            continue  # which has a threshold from its first norm on
        assert float(state.last.threshold) == LARGEST
        assert event_of(state.last, step=0, rule=rule).threshold == np.inf
