"""Differentiating through the transformation, as meta-learning does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effort import LONG
from gradclip import (
    L1,
    L2,
    RMS,
    AdaGC,
    AutoClip,
    ClipGradByGlobalNorm,
    ClipGradByNorm,
    ClipGradByValue,
    Constant,
    Element,
    Global,
    Linf,
    Lp,
    NormalizedGradient,
    PercentileClip,
    Rescale,
    Row,
    Rule,
    Smooth,
    StableSPAM,
    Tensor,
)
from gradclip.optax import clip


def clipped(rule):
    """The transformation as a function of one vector."""
    tx = clip(rule)

    def function(values):
        return tx.update({"w": values}, tx.init({"w": values}))[0]["w"]

    return function


def test_the_jacobian_is_that_of_the_formula():
    """g / |g| at [3, 4] with |g| = 5: (1 - u u^T) / 5 with u = [0.6, 0.8]."""
    truth = (np.eye(2) - np.outer([0.6, 0.8], [0.6, 0.8])) / 5
    function = clipped(Rule(threshold=Constant(1.0)))
    for derive in (jax.jacrev, jax.jacfwd):
        for one in (derive(function), derive(jax.jit(function)), jax.jit(derive(function))):
            np.testing.assert_allclose(one(jnp.array([3.0, 4.0])), truth, atol=1e-7)


def test_below_the_threshold_the_jacobian_is_the_identity():
    jacobian = jax.jit(jax.jacrev(clipped(Rule(threshold=Constant(9.0)))))(jnp.array([3.0, 4.0]))
    np.testing.assert_array_equal(jacobian, np.eye(2))


SCOPES, RESPONSES = (Row(), Tensor(), Global()), (Rescale(), Smooth())
NORMS = (L1(), L2(), Linf(), Lp(3.0), Lp(0.5), RMS())
MEASURED = [
    Rule(scope, norm, Constant(1.0), response)
    for i, scope in enumerate(SCOPES)
    for j, norm in enumerate(NORMS)
    for k, response in enumerate(RESPONSES)
    if LONG or (i + j + k) % 2 == 0
]
"""In the short form each two of a scope, a norm and a response meet, and in the long one each three."""


@pytest.mark.parametrize("rule", MEASURED, ids=repr)
def test_derivatives_are_finite_at_zero_and_near_it(rule):
    """One program derives the compiled step both ways: that is what takes the time, and not the values."""
    function = jax.jit(clipped(rule))
    both = jax.jit(lambda values: (jax.jacrev(function)(values), jax.jacfwd(function)(values)))
    for values in ([0.0, 0.0], [1e-25, 0.0], [0.0, 300.0]):
        found = np.asarray(both(jnp.array(values)))
        assert np.isfinite(found).all(), f"at {values}: {found}"


def test_a_step_that_was_compiled_among_float64_is_derived_where_there_is_none():
    """Of shapes that no other test has, or what was compiled for that would be found."""
    transformation = clip(NormalizedGradient(each_tensor=True))

    def function(given):
        tree = {"given": given, "ones": jnp.ones(3, jnp.float32)}
        return transformation.update(tree, transformation.init(tree))[0]["given"]

    given = jnp.zeros(29, jnp.float32).at[:2].set([3.0, 4.0])
    with jax.enable_x64(True):
        jax.jacrev(function)(given)
    found = jax.jacrev(function)(given)
    np.testing.assert_allclose(found[:2, :2], [[0.128, -0.096], [-0.096, 0.072]], atol=1e-6)


def test_by_value_only_what_is_inside_has_a_derivative():
    jacobian = jax.jit(jax.jacrev(clipped(ClipGradByValue(1.0))))(jnp.array([0.5, 3.0, -3.0, 0.0]))
    np.testing.assert_array_equal(jacobian, np.diag([1.0, 0.0, 0.0, 1.0]))
    smooth = jax.jit(jax.jacrev(clipped(Rule(Element(), Linf(), Constant(1.0), Smooth()))))(jnp.array([1.0, 0.0]))
    np.testing.assert_allclose(smooth, np.diag([0.25, 1.0]), atol=1e-7)  # d/dx x / (1 + x) = 1 / (1 + x)^2


def test_a_second_derivative_is_that_of_the_formula():
    """x / |x| along the first axis at [3, 4]: d2/dy2 of x / sqrt(x^2 + y^2) = x (2 y^2 - x^2) / r^5 = 69 / 3125."""
    hessian = jax.jit(jax.hessian(lambda v: clipped(Rule())(v)[0]))(jnp.array([3.0, 4.0]))
    assert float(hessian[1, 1]) == pytest.approx(69 / 3125, rel=1e-5)


@pytest.mark.parametrize(
    "rule",
    [
        ClipGradByNorm(1.0) >> ClipGradByGlobalNorm(1.0),
        Rule(Row(0)) >> Rule(Tensor()),
        AutoClip(50, window=3),
        PercentileClip(30, window=3),
        AdaGC(warmup=1),
    ],
    ids=repr,
)
@pytest.mark.parametrize("wide", [False, True], ids=["float32", "float64"])
def test_backwards_the_derivative_is_that_forwards(rule, wide):
    """Rules that pick numbers of one array for another; after two steps, at a gradient that is clipped.

    In the long form the steps and the derivative forwards run uncompiled.
    """
    compiled = (lambda function: function) if LONG else jax.jit
    with jax.enable_x64(wide):
        tx, steps = clip(rule), [jnp.array([[0.3, 0.4], [0.1, 0.0]]), jnp.array([[0.6, 0.0], [0.2, 0.1]])]
        state, update = tx.init({"w": steps[0]}), compiled(tx.update)
        for gradient in steps:
            _, state = update({"w": gradient}, state)

        def function(values):
            return tx.update({"w": values}, state)[0]["w"]

        at = jnp.array([[3.0, 4.0], [1.0, 2.0]])
        if LONG:
            forwards, backwards = jax.jacfwd(function)(at), jax.jit(jax.jacrev(function))(at)
        else:
            forwards, backwards = jax.jit(lambda at: (jax.jacfwd(function)(at), jax.jacrev(function)(at)))(at)
        assert np.abs(forwards).max() > 0.01
        np.testing.assert_allclose(backwards, forwards, atol=1e-14 if wide else 1e-6)  # a few roundings of 1


@pytest.mark.parametrize("rule", [StableSPAM(), NormalizedGradient(), NormalizedGradient(epsilon=0.1)], ids=repr)
def test_what_has_no_slope_at_zero_has_a_finite_one(rule):
    assert np.isfinite(jax.jacrev(clipped(rule))(jnp.zeros(2))).all()
