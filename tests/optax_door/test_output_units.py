"""AGC on the kernels of flax against `optax.adaptive_grad_clip`, which calculates in float32."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import gradclip.optax
from gradclip import AGC, L2, Constant, Row, Rule

SHAPES = [
    *((), (1,), (5,), (3, 4), (4, 1), (1, 4), (1, 1)),
    *((2, 3, 4), (1, 1, 4), (4, 1, 1), (1, 3, 4), (2, 1, 4), (2, 3, 1), (1, 1, 1)),
    *((3, 2, 2, 4), (1, 1, 1, 4), (1, 1, 4, 2), (4, 1, 1, 1), (2, 1, 3, 2, 4), (1, 1, 1, 1, 3)),
]


def drawn(shape, seed):
    draw = np.random.default_rng(seed)
    gradient, weight = draw.standard_normal((2, *shape)) * 10.0 ** draw.uniform(-3, 1, (2, *shape))
    return jnp.asarray(gradient, jnp.float32), jnp.asarray(weight, jnp.float32)


def agree(ours, theirs, shapes):
    """Two norms of up to 48 squares, a quotient and a product, in float32 theirs: 30 roundings and fewer."""
    gradients, weights = (
        {str(shape): drawn(shape, seed)[kind] for seed, shape in enumerate(shapes)} for kind in (0, 1)
    )
    found, expected = (
        jax.jit(tx.update)(gradients, tx.init(weights), weights)[0] for tx in (gradclip.optax.clip(ours), theirs)
    )
    for name, wanted in expected.items():
        np.testing.assert_allclose(found[name], wanted, rtol=30 * 2.0**-24, err_msg=name)


def test_the_output_units_of_kernels_are_those_of_optax():
    agree(AGC(0.1, 1e-3), optax.adaptive_grad_clip(0.1, 1e-3), SHAPES)


@pytest.mark.parametrize(
    ("axis", "over", "axes"),
    [((1, 2), 0, 3), ((0, 1), 2, 3), ((-2, -1), (0, 1), 4), (-1, (0, 1), 3), ((0, 1), (2, 3), 4), ((0, 1), (), 2)],
)
def test_the_axes_that_are_kept_are_those_that_optax_does_not_sum_over(axis, over, axes):
    """Axes of size 1 are axes where they are named."""
    agree(AGC(0.1, axis=axis), optax.adaptive_grad_clip(0.1, axis=over), [s for s in SHAPES if len(s) == axes])


def test_a_quiet_head_is_left_alone_beside_a_loud_one():
    attention = nnx.MultiHeadAttention(num_heads=2, in_features=3, qkv_features=8, decode=False, rngs=nnx.Rngs(0))
    weight = jnp.ones_like(attention.query.kernel[...])
    assert weight.shape == (3, 2, 4)
    gradient = weight.at[:, 0].set(100.0).at[:, 1].set(0.01)
    tx = gradclip.optax.clip(AGC(0.1))
    found, _ = tx.update({"kernel": gradient}, tx.init({"kernel": weight}), {"kernel": weight})
    assert found["kernel"][:, 1].tolist() == gradient[:, 1].tolist()
    np.testing.assert_allclose(found["kernel"][:, 0], 0.1, rtol=1e-6)


def test_axes_that_are_no_neighbours_are_refused_by_the_name_of_the_leaf():
    tx = gradclip.optax.clip(Rule(Row((0, -1)), L2(), Constant(1.0)))
    leaves = {"matrix": jnp.ones((2, 3)), "kernel": jnp.ones((2, 3, 4))}
    with pytest.raises(TypeError, match=r"'kernel'.*\(0, -1\) of its shape.*, between which others lie"):
        tx.update(leaves, tx.init(leaves))


@pytest.mark.parametrize("shape", [(3, 0), (0, 3), (2, 3, 0)])
def test_a_tree_that_has_no_units_is_left_as_it_is(shape):
    leaves = {"kernel": jnp.ones(shape)}
    tx = gradclip.optax.clip(AGC(0.1))
    updates, state = tx.update(leaves, tx.init(leaves), leaves)
    assert updates["kernel"].shape == shape
    assert not state.last.clipped
