"""Tests of meshes with explicit axes: `test_devices.py` runs this file in a process that has eight devices."""

import re
from functools import partial
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from effort import LONG
from gradclip import ClipGradByGlobalNorm, Global, Linf, Raise, Rule, SkipStep, UClip
from gradclip.engines import jax_shards
from gradclip.optax import clip
from gradclip.optax.placed import Places
from gradclip.rules.rule import rules_in
from gradclip.testing import standard_rules
from gradclip.testing.bench import NORM_TOLERANCE
from jax_lowering import share_contexts
from planting import Plant

share_contexts()

MESH = jax.make_mesh((8,), ("d",))
RANDOM = np.random.default_rng(0)
SHAPES = {"t0": (8, 4), "t1": (3, 8), "t2": (5,), "t3": (16, 2, 4)}
SPECS = {"t0": P("d", None), "t1": P(None, "d"), "t2": P(None), "t3": P("d", None, None)}
GRADIENTS = {name: RANDOM.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}
RULES = [rule for rule in standard_rules() if not any(isinstance(one.response, Raise) for one in rules_in(rule))]
ONE = ClipGradByGlobalNorm(1.0)
TOLERANCE = 2 * (NORM_TOLERANCE + 3 * 2.0**-24)
"""Each of two norms is right to 1e-6; a coefficient, a product and the memory are rounded once each."""


def placed(gradients=GRADIENTS, specs=SPECS, mesh=MESH):
    return {name: jax.device_put(g, NamedSharding(mesh, specs[name])) for name, g in gradients.items()}


def transformation(rule, **options):
    skips = any(isinstance(one.response, SkipStep) for one in rules_in(rule)) or options.get("on_nonfinite") == "skip"
    return clip(rule, inner=optax.identity() if skips else None, **options)


def steps(tx, gradients=GRADIENTS, place=dict):
    """Two steps, of which the second is larger, by another factor for each element: all that comes out.

    Where all segments had one ratio to their thresholds, rounding would decide which of them was clipped hardest.
    """
    params = place({name: np.float32(1.0 + i) * g for i, (name, g) in enumerate(gradients.items())})
    larger = {name: g * (1.0 + np.float32(1.3 + i) * abs(g)) for i, (name, g) in enumerate(gradients.items())}
    first, second = place(gradients), place(larger)
    update, state, found = jax.jit(tx.update), tx.init(first), []
    for loss, sized in enumerate((first, second)):
        updates, state = update(sized, state, params, loss=float(loss), moments=first)
        found.append((updates, state))
    return found


def require_same(found, expected):
    """The same tree of numbers, those that are not finite too."""
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(np.asarray(one), np.asarray(other), rtol=TOLERANCE, atol=1e-37)


def require_in_their_places(updates, gradients):
    assert [jax.typeof(u).sharding for u in updates.values()] == [jax.typeof(g).sharding for g in gradients.values()]


def collectives(compiled):
    """The operations of a compiled program that the devices make together."""
    names = r"\b(all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute)(?:-start)?\("
    return re.findall(names, compiled.as_text())


def test_the_axes_of_a_mesh_are_explicit():
    assert jax.device_count() == 8
    assert MESH.axis_types == (AxisType.Explicit,)
    assert jax.typeof(placed()["t0"]).sharding.spec == P("d", None)


@pytest.mark.parametrize("rule", RULES[:: 1 if LONG else 9], ids=repr)
def test_a_rule_gives_the_numbers_of_one_device_where_the_gradients_lie(rule):
    expected = steps(transformation(rule))
    with jax.set_mesh(MESH):
        found = steps(transformation(rule), place=placed)
        require_same(found, expected)
        for updates, _ in found:
            require_in_their_places(updates, placed())


def test_many_large_and_small_arrays_of_three_types_are_one_all_reduce():
    with jax.set_mesh(MESH):
        gradients = {
            f"g{i}": jax.device_put(jnp.ones(shape, dtype), NamedSharding(MESH, spec))
            for i, (shape, dtype, spec) in enumerate(
                [
                    ((1024, 64), jnp.bfloat16, P("d", None)),
                    ((64, 1024), jnp.float32, P(None, "d")),
                    ((16, 8, 4), jnp.float16, P(None, "d", None)),
                    ((1000,), jnp.float32, P(None)),
                ]
            )
        }
        tx = clip(ONE)
        assert collectives(jax.jit(tx.update).lower(gradients, tx.init(gradients)).compile()) == ["all-reduce"]
        _, state = jax.jit(tx.update)(gradients, tx.init(gradients))
    assert float(state.last.norm_before) == pytest.approx((65536 + 65536 + 512 + 1000) ** 0.5, rel=1e-6)


@pytest.mark.parametrize("policy", ["keep", "zero", "skip"])
@pytest.mark.parametrize("rule", [ONE, Rule(Global(), Linf())], ids=repr)
def test_what_is_not_finite_on_one_device_is_known_to_all(rule, policy):
    """Two elements of one tensor, on two devices, and one of a tensor that all have: two tensors."""
    broken = {name: g.copy() for name, g in GRADIENTS.items()}
    broken["t0"][[1, 6], 2], broken["t2"][0] = np.nan, np.inf
    tx = transformation(rule, on_nonfinite=policy)
    expected = steps(tx, broken)
    with jax.set_mesh(MESH):
        found = steps(tx, broken, placed)
    require_same(found, expected)
    assert int(found[0][1].last.nonfinite) == 2


def test_copies_along_either_of_two_axes_count_once():
    """9 + 16 + 144 + 7056 = 7225 = 85^2."""
    mesh = jax.make_mesh((4, 2), ("data", "model"))
    gradients = {
        "a": np.float32([3.0, 0.0]),
        "b": np.float32([[4.0, 0.0], [0.0, 12.0], [0.0, 0.0], [0.0, 0.0]]),
        "c": np.float32([84.0]),
        "d": np.zeros((8, 3), np.float32),
    }
    specs = {"a": P("model"), "b": P("data", "model"), "c": P(None), "d": P(("data", "model"), None)}
    with jax.set_mesh(mesh):
        gradients, tx = placed(gradients, specs, mesh), clip(ClipGradByGlobalNorm(8.5))
        updates, state = jax.jit(tx.update)(gradients, tx.init(gradients))
    assert float(state.last.norm_before) == 85.0
    np.testing.assert_allclose(updates["c"], [8.4], rtol=1e-6)
    np.testing.assert_allclose(np.asarray(updates["b"])[1], [0.0, 1.2], rtol=1e-6)


@pytest.mark.parametrize("other", [AxisType.Auto, AxisType.Explicit])
def test_an_axis_beside_it_may_be_automatic(other):
    mesh = jax.make_mesh((4, 2), ("d", "other"), axis_types=(AxisType.Explicit, other))
    tx = clip(ONE)
    expected = steps(tx)
    with jax.set_mesh(mesh):
        found = steps(tx, place=partial(placed, mesh=mesh))
        require_same(found, expected)
        require_in_their_places(found[0][0], placed(mesh=mesh))


@pytest.mark.parametrize("rule", [ONE, UClip(ONE)], ids=repr)
def test_a_step_may_run_uncompiled_and_without_a_mesh_in_force(rule):
    tx = clip(rule)
    expected = steps(tx)[0]
    gradients = placed()
    for update in (tx.update, jax.jit(tx.update)):
        found = update(gradients, tx.init(gradients))
        require_same(found, expected)
        require_in_their_places(found[0], gradients)
    with jax.set_mesh(MESH):
        require_same(tx.update(gradients, tx.init(gradients)), expected)


@pytest.mark.parametrize("rule", [ONE, UClip(ONE), RULES[0], *RULES[-2:]], ids=repr)
def test_the_state_keeps_its_types_and_places_in_a_compiled_loop(rule):
    tx = optax.chain(clip(rule), optax.sgd(0.1))
    with jax.set_mesh(MESH):
        gradients = placed()

        def walked(state):
            return jax.lax.scan(lambda s, size: (tx.update(gradients, s)[1], size), state, jnp.arange(3.0))[0]

        state = jax.jit(walked)(tx.init(gradients))
    assert int(optax.tree.get(state, "step")) == 3


def test_a_gradient_that_is_not_summed_up_yet_is_refused_by_name():
    tx = clip(ONE)

    def step(x):
        product = jnp.einsum("ij,jk->ik", x, x.T, out_sharding=P(None, None, unreduced={"d"}))
        return tx.update({"kernel": product}, None)[0]

    with jax.set_mesh(MESH):
        x = jax.device_put(jnp.ones((4, 8)), NamedSharding(MESH, P(None, "d")))
        with pytest.raises(ValueError, match=r"'kernel' is not summed up yet over the axes \['d'\].*reshard"):
            jax.jit(step)(x)


def test_a_sharded_step_is_differentiated():
    """g / |g| has the derivative (1 - u u^T) / |g|; along g it is 0."""
    tx = clip(ONE)
    with jax.set_mesh(MESH):
        vector = jax.device_put(jnp.arange(1.0, 9.0), NamedSharding(MESH, P("d")))
        along = jax.jit(lambda v: jax.jvp(lambda g: tx.update({"a": g}, tx.init({"a": g}))[0]["a"], (v,), (v,))[1])
        np.testing.assert_allclose(along(vector), np.zeros(8), atol=1e-7)
        gradient = jax.jit(jax.grad(lambda g: tx.update({"a": g}, tx.init({"a": g}))[0]["a"].sum()))(vector)
    size = np.arange(1.0, 9.0)
    norm = np.sqrt(204.0)
    np.testing.assert_allclose(gradient, (1 - size * 36 / 204) / norm, atol=1e-6)


PLANTS = [
    Plant("copies count on every device", test_copies_along_either_of_two_axes_count_once, (),
          jax_shards, "_counts", lambda axes: jnp.ones((), bool)),
    Plant("results lie where the compiler left them", test_an_axis_beside_it_may_be_automatic, (AxisType.Explicit,),
          Places, "each", property(lambda self: [self._copied] * 4, lambda self, each: None)),
]  # fmt: skip


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.what)
def test_a_planted_bug_turns_the_test_red(plant):
    plant.oracle(*plant.arguments)
    jax_shards.whole_of_shards.clear_cache()  # what was compiled before does not know of the bug
    with mock.patch.object(plant.target, plant.name, plant.bug, create=True), pytest.raises(plant.red):
        plant.oracle(*plant.arguments)
    jax_shards.whole_of_shards.clear_cache()
