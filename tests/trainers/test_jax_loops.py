"""Loops of JAX with their real packages: what a clip remembers goes through Orbax, and a resumed training is the same.

Each training is a process of its own: this file, called with what to train, by which rule, how far, and where.
"""

import os
import subprocess
import sys
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx

import gradclip.optax
from gradclip import AutoClip, ZClip
from gradclip.telemetry import read_run

RULES = {"ZClip": ZClip(warmup=3), "AutoClip": AutoClip(50)}
KEY = jax.random.key(0)
STEPS, HALF = 12, 6


def batch(step):
    """Of some steps the inputs are so large that the rule acts."""
    x = jax.random.normal(jax.random.fold_in(KEY, step), (8, 3)) * jnp.where(step % 4 == 3, 30.0, 1.0)
    return x, jnp.sin(x).sum(axis=1, keepdims=True)


class Equinox:
    """A model and an optimizer as Equinox has them: two trees."""

    def __init__(self, tx):
        self.model = eqx.nn.MLP(3, 1, 8, 2, key=KEY)
        self.opt_state = tx.init(eqx.filter(self.model, eqx.is_array))

        @eqx.filter_jit
        def step(model, opt_state, x, y):
            loss, gradients = eqx.filter_value_and_grad(lambda m: jnp.mean((jax.vmap(m)(x) - y) ** 2))(model)
            updates, opt_state = tx.update(gradients, opt_state, eqx.filter(model, eqx.is_array))
            return eqx.apply_updates(model, updates), opt_state, loss

        self.compiled = step

    @property
    def tree(self):
        return eqx.filter(self.model, eqx.is_array), self.opt_state

    def load(self, tree):
        arrays, self.opt_state = tree
        self.model = eqx.combine(arrays, eqx.filter(self.model, eqx.is_array, inverse=True))

    def step(self, number):
        self.model, self.opt_state, loss = self.compiled(self.model, self.opt_state, *batch(number))
        return loss


class Flax:
    """A model and an optimizer of `flax.nnx`, which change in place."""

    def __init__(self, tx):
        self.model = nnx.Linear(3, 1, rngs=nnx.Rngs(0))
        self.opt_state = nnx.Optimizer(self.model, tx, wrt=nnx.Param)

        @nnx.jit
        def step(model, optimizer, x, y):
            loss, gradients = nnx.value_and_grad(lambda m: jnp.mean((m(x) - y) ** 2))(model)
            optimizer.update(model, gradients)
            return loss

        self.compiled = step

    @property
    def tree(self):
        return nnx.to_pure_dict(nnx.state((self.model, self.opt_state)))

    def load(self, tree):
        state = nnx.state((self.model, self.opt_state))
        nnx.replace_by_pure_dict(state, tree)
        nnx.update((self.model, self.opt_state), state)

    def step(self, number):
        return self.compiled(self.model, self.opt_state, *batch(number))


LOOPS = {"equinox": Equinox, "flax": Flax}


def train(loop, rule, start, stop, folder):
    """Train from the checkpoint of step `start`, if that is not the first, and leave one of step `stop`."""
    training = LOOPS[loop](optax.chain(gradclip.optax.clip(RULES[rule]), optax.adam(0.05)))
    with ocp.StandardCheckpointer() as checkpoints:
        if start:
            training.load(checkpoints.restore(folder / f"step-{start}", training.tree))
        for number in range(start, stop):
            loss = training.step(number)
            gradclip.optax.record(training.opt_state, folder / "run", rule=RULES[rule], loss=loss)
        checkpoints.save(folder / f"step-{stop}", training.tree)
    leaves = jax.tree_util.tree_flatten_with_path(training.tree)[0]
    np.savez(folder / f"{stop}.npz", **{jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves})


def trained(folder, loop, rule, *stops):
    """All that a training has in the end, which was interrupted at each of the `stops` but the last."""
    folder.mkdir()
    for start, stop in zip((0, *stops), stops, strict=False):
        command = [sys.executable, __file__, loop, rule, str(start), str(stop), str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env={**os.environ})
        assert done.returncode == 0, done.stderr[-3000:]
    with np.load(folder / f"{stops[-1]}.npz") as arrays:
        return dict(arrays)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("loop", LOOPS)
def test_a_training_that_orbax_resumes_is_the_uninterrupted_one_bit_for_bit(loop, rule, tmp_path):
    """Weights, moments, what the rule remembers and what it did last; and the run has each step once."""
    whole = trained(tmp_path / "whole", loop, rule, STEPS)
    resumed = trained(tmp_path / "resumed", loop, rule, HALF, STEPS)
    assert any("thresholds" in name for name in whole)
    assert whole.keys() == resumed.keys()
    for name, array in whole.items():
        np.testing.assert_array_equal(resumed[name], array, err_msg=name)
    runs = [read_run(tmp_path / name / "run") for name in ("whole", "resumed")]
    assert [event.step for event in runs[0]] == list(range(STEPS))
    for one, other in zip(*runs, strict=True):
        assert {**one.to_dict(), "time": 0} == {**other.to_dict(), "time": 0}
    assert any(event.clipped for event in runs[0])


if __name__ == "__main__":
    train(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5]))
