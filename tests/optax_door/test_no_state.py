"""No state, `None` or `optax.EmptyState()`, as code has it that was written for the clips of optax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradclip import (
    AGC,
    SPAM,
    AutoClip,
    ClipGradByGlobalNorm,
    ClipGradByNorm,
    ClipGradByValue,
    Constant,
    Row,
    Rule,
    Rules,
    Schedule,
    UClip,
    min_of,
    until,
)
from gradclip.optax import ClipState, clip

GRADIENTS = {"a": jnp.array([3.0, 0.5]), "b": jnp.array([[4.0], [-12.0]])}
PARAMS = jax.tree.map(jnp.ones_like, GRADIENTS)
WITHOUT = [
    ClipGradByGlobalNorm(1.0),
    ClipGradByValue(1.0),
    ClipGradByValue(2.0, -1.0) >> ClipGradByNorm(1.0),
    Rules({"a": None, "*": ClipGradByNorm(1.0)}),
    Rule(Row(), threshold=min_of(1.0, 2.0)),
    AGC(0.01),
    SPAM(0.5, warmup=0),
]
WITH = [AutoClip(), UClip(ClipGradByGlobalNorm(1.0)), ClipGradByGlobalNorm(1.0) >> AutoClip()]
COUNTING = [
    ClipGradByNorm(Schedule((0, 4.0), (2, 2.0))),
    Rule(threshold=min_of(1.0, Schedule((0, 4.0), (2, 2.0)))),
    Rule(threshold=until(3, 1.0, None)),
    AGC(Schedule((0, 0.1), (2, 0.2))),
    SPAM(0.5, warmup=2),
]


def bits(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


@pytest.mark.parametrize("nothing", [None, optax.EmptyState()], ids=repr)
@pytest.mark.parametrize("rule", WITHOUT, ids=repr)
def test_a_rule_without_memory_clips_from_no_state_as_from_its_first(rule, nothing):
    tx = clip(rule)
    expected = tx.update(GRADIENTS, tx.init(PARAMS), PARAMS, moments=GRADIENTS)
    for update in (tx.update, jax.jit(tx.update)):
        found = update(GRADIENTS, nothing, PARAMS, moments=GRADIENTS)
        assert isinstance(found[1], ClipState)
        assert jax.tree.structure(found) == jax.tree.structure(expected)
        np.testing.assert_allclose(found[1].last.norm_before, expected[1].last.norm_before, rtol=2.0**-23)
        for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            assert jax.typeof(one) == jax.typeof(other)
            np.testing.assert_allclose(np.asarray(one), np.asarray(other), rtol=2.0**-22)


def test_the_state_that_comes_back_goes_on():
    tx = clip(ClipGradByGlobalNorm(1.0))
    updates, state = tx.update(GRADIENTS, None)
    np.testing.assert_allclose(updates["b"][1], -12.0 / 169.25**0.5, rtol=1e-6)
    _, state = tx.update(GRADIENTS, state)
    assert int(state.step) == 2
    assert float(state.last.norm_before) == pytest.approx(169.25**0.5, rel=1e-6)  # 9 + 0.25 + 16 + 144


@pytest.mark.parametrize("nothing", [None, optax.EmptyState()], ids=repr)
@pytest.mark.parametrize("rule", [*WITH, *COUNTING], ids=repr)
def test_a_rule_that_remembers_says_to_call_init(rule, nothing):
    what = "the number of the step" if rule in COUNTING else "what is kept of earlier steps"
    with pytest.raises(ValueError, match=rf"needs {what}.*state = tx\.init\(params\)"):
        clip(rule).update(GRADIENTS, nothing, PARAMS)


def test_a_wrapped_optimizer_needs_its_state():
    tx = clip(ClipGradByGlobalNorm(1.0), inner=optax.adam(0.1))
    with pytest.raises(ValueError, match=r"the optimizer that it wraps.*state = tx\.init\(params\)"):
        tx.update(GRADIENTS, None, PARAMS)


def test_a_limit_that_the_program_computes_needs_no_state():
    step = jax.jit(lambda limit: clip(ClipGradByGlobalNorm(limit)).update({"a": jnp.array([3.0, 4.0])}, None)[0]["a"])
    np.testing.assert_allclose(step(0.5), [0.3, 0.4], rtol=1e-6)


@pytest.mark.parametrize("state", [{}, optax.adam(0.1).init(PARAMS), 3], ids=lambda state: type(state).__name__)
def test_a_state_of_something_else_is_refused(state):
    with pytest.raises(TypeError, match=r"the state of clip is a ClipState, got .*tx\.init\(params\)"):
        clip(Rule(threshold=Constant(1.0))).update(GRADIENTS, state)
