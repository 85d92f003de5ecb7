"""The traced function: nothing of it runs on the host, and its arrays are not widened."""

import jax
import jax.numpy as jnp
import optax
import pytest

from gradclip import Raise
from gradclip.optax import clip
from gradclip.rules.response import SkipStep
from gradclip.rules.rule import rules_in
from gradclip.testing import standard_rules

RULES = [rule for rule in standard_rules() if not any(isinstance(one.response, Raise) for one in rules_in(rule))]
HOST = ("callback", "device_put", "infeed", "outfeed", "debug", "host")


def equations(jaxpr):
    """The equations of a jaxpr and of those inside it."""
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            for inner in jax.tree.leaves(value, is_leaf=lambda v: hasattr(v, "eqns") or hasattr(v, "jaxpr")):
                if hasattr(inner, "jaxpr") or hasattr(inner, "eqns"):
                    yield from equations(getattr(inner, "jaxpr", inner))


def traced(rule, gradients):
    skips = any(isinstance(one.response, SkipStep) for one in rules_in(rule))
    tx = clip(rule, inner=optax.identity() if skips else None)
    return jax.make_jaxpr(tx.update)(gradients, tx.init(gradients), gradients).jaxpr


@pytest.mark.parametrize("rule", RULES[::3], ids=repr)
def test_no_operation_of_the_compiled_step_touches_the_host(rule):
    names = {
        equation.primitive.name for equation in equations(traced(rule, {"t0": jnp.ones((3, 4)), "t1": jnp.ones(2)}))
    }
    assert len(names) > 5  # the walk saw something
    assert not [name for name in names if any(word in name for word in HOST)]


def test_the_search_for_host_operations_finds_one():
    def asks(x):
        return jax.jit(lambda y: jax.pure_callback(lambda v: v, y, y))(x)

    names = {equation.primitive.name for equation in equations(jax.make_jaxpr(asks)(1.0).jaxpr)}
    assert any("callback" in name for name in names)
