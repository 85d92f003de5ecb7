"""Norms of finite gradients that the type of a gradient cannot hold: told as they are."""

import pickle

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradclip import ClipGradByGlobalNorm, ClipGradByNorm, Constant, NormalizedGradient, Rule
from gradclip.optax import ClipState, Last, clip, event_of

OPEN = Rule(threshold=Constant(None))
LARGEST = float(np.finfo(np.float32).max)


def told(rule, *values, dtype=jnp.float32):
    """The event of a compiled step, and what the state says."""
    tx = clip(rule)
    gradients = {"a": jnp.array(values, dtype)}
    _, state = jax.jit(tx.update)(gradients, tx.init(gradients))
    return event_of(state.last, step=0, rule=rule), state.last


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_norm_beyond_float32_is_told_as_it_is(dtype):
    truth = float(np.float64(jnp.asarray(3e38, dtype))) * 2**0.5
    event, last = told(ClipGradByGlobalNorm(1.0), 3e38, 3e38, dtype=dtype)
    assert event.norm_before == pytest.approx(truth, rel=1e-6)
    assert (event.norm_after, float(last.excess_after)) == (pytest.approx(1.0, rel=1e-6), 1.0)
    assert float(last.norm_before) == LARGEST
    assert float(last.excess_before) == pytest.approx(truth / LARGEST, rel=1e-6)
    event, _ = told(OPEN, 3e38, 3e38, dtype=dtype)
    assert (event.norm_before, event.norm_after) == (pytest.approx(truth, rel=1e-6),) * 2


@pytest.mark.parametrize("values", [(3.0, 4.0), (0.0, 0.0), (3e38, 0.0), (1e-30, 0.0)])
def test_a_norm_that_float32_holds_has_no_excess(values):
    event, last = told(OPEN, *values)
    assert (
        event.norm_before == event.norm_after == float(last.norm_before) == pytest.approx(np.hypot(*values), rel=1e-6)
    )
    assert float(last.excess_before) == float(last.excess_after) == 1.0


def test_a_norm_of_float64_gradients_is_told_as_it_is():
    with jax.enable_x64(True):
        for size in (1e50, 1e200):
            event, last = told(ClipGradByNorm(1e-50), size, size, dtype=jnp.float64)
            assert last.norm_before.dtype == last.excess_before.dtype == last.coefficient.dtype == jnp.float64
            assert event.norm_before == pytest.approx(size * 2**0.5, rel=1e-14)
            assert event.norm_after == pytest.approx(1e-50, rel=1e-14)
            assert event.threshold == 1e-50
            assert event.coefficient == pytest.approx(1e-50 / size / 2**0.5, rel=1e-14)


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_a_gradient_that_is_not_finite_has_no_finite_norm(bad):
    event, last = told(OPEN, bad, 3e38)
    assert not np.isfinite(event.norm_before)
    assert float(last.excess_before) == 1.0
    assert event.nonfinite == 1


def test_the_types_of_a_state_do_not_follow_the_numbers():
    tx = clip(ClipGradByGlobalNorm(1.0))
    states = [tx.init({"a": jnp.zeros(2)})]
    for size in (1.0, 3e38):
        states.append(jax.jit(tx.update)({"a": jnp.full(2, size)}, states[-1])[1])
    assert len({str(jax.tree.map(jax.typeof, state)) for state in states}) == 1


def former(state):
    """The state as it was saved when `Last` had seven fields."""
    return state._replace(last=tuple(state.last)[:7])


def test_a_state_that_was_saved_before_is_taken_or_refused_by_name():
    tx = clip(ClipGradByGlobalNorm(1.0))
    gradients = {"a": jnp.array([3.0, 4.0])}
    _, state = tx.update(gradients, tx.init(gradients))
    restored = ClipState(*former(state)[:2], Last(*former(state).last), *state[3:])  # as pickle makes it anew
    _, again = jax.jit(tx.update)(gradients, restored)
    assert int(again.step) == 2
    assert jax.tree.structure(pickle.loads(pickle.dumps(again))) == jax.tree.structure(state)
    saved = flax.serialization.to_state_dict(state)
    for name in ("excess_before", "excess_after"):
        del saved["last"][name]
    with pytest.raises(ValueError, match="excess_before"):
        flax.serialization.from_state_dict(tx.init(gradients), saved)


def test_a_coefficient_that_float32_cannot_hold_is_its_largest_number():
    """1 / 1e-40, of a gradient whose update is [1, 0]."""
    tx, gradients = clip(NormalizedGradient()), {"w": jnp.array([1e-40, 0.0])}
    updates, state = jax.jit(tx.update)(gradients, tx.init(gradients))
    np.testing.assert_allclose(updates["w"], [1.0, 0.0], rtol=1e-6)
    assert float(state.last.coefficient) == float(np.finfo(np.float32).max)
