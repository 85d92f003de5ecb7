"""Real training: a deep net at a learning rate at which its gradients explode, with Adam and with SGD."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradclip import ClipGradByGlobalNorm
from gradclip.optax import clip

X = jnp.asarray(np.random.default_rng(0).uniform(-1.0, 1.0, (64, 4)), jnp.float32)
Y = jnp.sin(3.0 * X.sum(axis=1, keepdims=True))


def start():
    """Five layers, each twice as large as it should be: the gradient of the first is 2^5 times that of the last."""
    random = np.random.default_rng(1)
    sizes = (4, 32, 32, 32, 32, 1)
    return [jnp.asarray(random.standard_normal((a, b)) * 2 / a**0.5, jnp.float32) for a, b in pairwise(sizes)]


def loss(params):
    hidden = X
    for weight in params[:-1]:
        hidden = jax.nn.leaky_relu(hidden @ weight, 0.3)
    return jnp.mean((hidden @ params[-1] - Y) ** 2)


def losses(tx, steps=300):
    """The loss of each step, in one compiled loop."""

    def step(carry, _):
        params, state = carry
        value, gradients = jax.value_and_grad(loss)(params)
        updates, state = tx.update(gradients, state, params)
        return (optax.apply_updates(params, updates), state), value

    params = start()
    return np.asarray(jax.jit(lambda carry: jax.lax.scan(step, carry, length=steps))((params, tx.init(params)))[1])


def test_sgd_diverges_without_and_learns_with():
    assert not np.isfinite(losses(optax.sgd(0.05))[-1])
    clipped = losses(optax.chain(clip(ClipGradByGlobalNorm(1.0)), optax.sgd(0.05)))
    assert np.isfinite(clipped).all()
    assert clipped[-1] < clipped[0] / 100


def test_adam_learns_with_it_as_well_as_with_the_clip_of_optax():
    """Both are right on these gradients; 300 steps of training enlarge the last bits, so the ends are compared."""
    ours = losses(optax.chain(clip(ClipGradByGlobalNorm(1.0)), optax.adam(0.003)))
    theirs = losses(optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.003)))
    np.testing.assert_allclose(ours[:5], theirs[:5], rtol=1e-4)
    assert ours[-1] < ours[0] / 100
    assert theirs[-1] < theirs[0] / 100
