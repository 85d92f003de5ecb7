"""Tests that need four devices: `test_devices.py` runs this file in a process that has them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from gradclip import (
    EMA,
    L2,
    ClipGradByGlobalNorm,
    ClipGradByNorm,
    ClipGradByValue,
    Constant,
    Element,
    Global,
    History,
    Linf,
    Lp,
    Ratio,
    Row,
    Rule,
    SkipStep,
    UClip,
)
from gradclip.optax import clip
from jax_lowering import share_contexts
from remembering import Following

share_contexts()

MESH = Mesh(np.array(jax.devices()), ("data",))
RANDOM = np.random.default_rng(0)
GRADIENTS = {
    "sharded": jnp.asarray(RANDOM.standard_normal((8, 3)) * 5, jnp.float32),
    "copied": jnp.asarray(RANDOM.standard_normal((3, 2)), jnp.float32),
}
SPECS = {"sharded": P("data"), "copied": P()}
RULES = [
    ClipGradByGlobalNorm(1.0),
    ClipGradByNorm(1.0),
    Rule(Global(), Lp(3.0), Constant(1.0)),
    ClipGradByNorm(3.0) >> ClipGradByGlobalNorm(1.0),
    ClipGradByValue(0.5),
    ClipGradByValue(0.5) >> ClipGradByGlobalNorm(1.0),
    Rule(Global(), L2(), Following()),
]


def alone(tx, gradients=GRADIENTS):
    """The step on one device: the truth for all others."""
    return jax.jit(tx.update)(gradients, tx.init(gradients))


@pytest.mark.parametrize("how", ["mapped", "placed", "said"])
@pytest.mark.parametrize("rule", [RULES[0], RULES[4], RULES[6]], ids=repr)
def test_the_norms_of_tensors_are_those_of_one_device(rule, how):
    _, state = alone(clip(rule, tensors=True))
    placed = {name: jax.device_put(g, NamedSharding(MESH, SPECS[name])) for name, g in GRADIENTS.items()}
    if how == "mapped":
        _, found = mapped(clip(rule, axis_name="data", tensors=True))
    else:
        said = {"shardings": jax.tree.map(lambda g: g.sharding, placed)} if how == "said" else {}
        tx = clip(rule, tensors=True, **said)
        _, found = jax.jit(tx.update)(placed, tx.init(placed))
    for name, norm in state.tensors.items():
        np.testing.assert_allclose(found.tensors[name], norm, rtol=1e-6)


def mapped(tx, gradients=GRADIENTS, specs=SPECS, **options):
    """The step under `shard_map`."""
    state = tx.init(gradients)
    step = jax.shard_map(tx.update, mesh=MESH, in_specs=(specs, P()), out_specs=(specs, P()), **options)
    return jax.jit(step)(gradients, state)


def require_same(found, expected):
    """The same tree of numbers: 4 roundings of float32, because the sums are taken in another order."""
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(np.asarray(one), np.asarray(other), rtol=4 * 2.0**-24)


def test_there_are_four_devices():
    assert jax.device_count() == 4


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_shards_under_shard_map_are_clipped_as_the_whole(rule):
    require_same(mapped(clip(rule, axis_name="data")), alone(clip(rule)))


@pytest.mark.parametrize("rule", [*RULES, Rule(Row(), L2(), Constant(1.0))], ids=repr)
def test_sharded_arrays_under_jit_are_clipped_as_the_whole(rule):
    tx = clip(rule)
    placed = {name: jax.device_put(g, NamedSharding(MESH, SPECS[name])) for name, g in GRADIENTS.items()}
    updates, state = jax.jit(tx.update)(placed, tx.init(placed))
    require_same((updates, state), alone(tx))
    assert updates["sharded"].sharding.is_equivalent_to(placed["sharded"].sharding, 2)


def test_a_nan_on_one_device_is_known_to_all():
    broken = GRADIENTS | {"sharded": GRADIENTS["sharded"].at[5, 1].set(jnp.nan)}
    updates, state = mapped(clip(ClipGradByGlobalNorm(1.0), axis_name="data", on_nonfinite="zero"), broken)
    assert all(not np.asarray(leaf).any() for leaf in jax.tree.leaves(updates))
    assert int(state.last.nonfinite) == 1


@pytest.mark.parametrize("rule", [ClipGradByGlobalNorm(1.0), ClipGradByValue(0.5)], ids=repr)
def test_a_skip_of_one_device_is_a_skip_of_all(rule):
    broken = GRADIENTS | {"sharded": GRADIENTS["sharded"].at[5, 1].set(jnp.nan)}
    tx = clip(rule, inner=optax.sgd(1.0), axis_name="data", on_nonfinite="skip")
    updates, state = mapped(tx, broken)
    assert bool(state.last.skipped)
    assert all(not np.asarray(leaf).any() for leaf in jax.tree.leaves(updates))


def test_a_spike_on_one_device_skips_on_all():
    tx = clip(Rule(response=SkipStep()), inner=optax.sgd(1.0), axis_name="data")
    small = jax.tree.map(lambda g: g * 1e-3, GRADIENTS)
    assert not mapped(tx, small)[1].last.skipped
    assert mapped(tx, small | {"sharded": small["sharded"].at[7, 0].set(50.0)})[1].last.skipped


def test_two_axes_are_summed_over_and_copies_along_one_count_once():
    mesh = Mesh(np.array(jax.devices()).reshape(2, 2), ("data", "model"))
    gradients = {"a": jnp.array([3.0, 0.0]), "b": jnp.array([[4.0, 0.0], [0.0, 12.0]]), "c": jnp.array([84.0])}
    specs = {"a": P("model"), "b": P("data", "model"), "c": P()}
    tx = clip(ClipGradByGlobalNorm(8.5), axis_name=("data", "model"))
    step = jax.shard_map(tx.update, mesh=mesh, in_specs=(specs, P()), out_specs=(specs, P()))
    updates, state = jax.jit(step)(gradients, tx.init(gradients))
    assert float(state.last.norm_before) == 85.0  # 9 + 16 + 144 + 7056 = 7225
    np.testing.assert_allclose(updates["c"], [8.4], rtol=1e-6)
    np.testing.assert_allclose(updates["a"], [0.3, 0.0], rtol=1e-6)


def test_what_is_a_shard_and_what_a_copy_must_be_known():
    with pytest.raises(ValueError, match="check_vma=True"):
        mapped(clip(ClipGradByGlobalNorm(1.0), axis_name="data"), check_vma=False)
    tx = clip(ClipGradByGlobalNorm(1.0), axis_name="data")
    with pytest.raises(ValueError, match="leave out axis_name"):
        jax.pmap(lambda g: tx.update({"a": g}, tx.init({"a": g}))[0], axis_name="data")(jnp.ones((4, 2)))


def test_shards_beside_copies_without_an_axis_are_refused():
    with pytest.raises(ValueError, match=r"give clip\(..., axis_name='data'\)"):
        mapped(clip(ClipGradByGlobalNorm(1.0)))


def test_gradients_averaged_in_pmap_need_no_axis():
    tx = clip(ClipGradByGlobalNorm(1.0))

    def step(g):
        mean = {"a": jax.lax.pmean(g, "data")}
        return tx.update(mean, tx.init(mean))[0]["a"]

    updates = jax.pmap(step, axis_name="data")(jnp.array([[3.0, 4.0]] * 4))
    np.testing.assert_allclose(updates, [[0.6, 0.8]] * 4, rtol=1e-6)


def test_rows_of_shards_are_refused_with_words():
    with pytest.raises(ValueError, match="shared among processes"):
        mapped(clip(Rule(Row(), L2(), Constant(1.0)), axis_name="data"))


def test_bounds_that_adapt_are_those_of_the_whole_tensor():
    """The largest of [1, 2, 3, 4], of which each device has one number, is 4: the bound of the next step on all."""
    rule = Rule(Element(), Linf(), History(EMA(0.5), Ratio(1.0)))
    spec, tx = {"a": P("data")}, clip(rule, axis_name="data")
    step = jax.jit(jax.shard_map(tx.update, mesh=MESH, in_specs=(spec, P()), out_specs=(spec, P())))
    state = tx.init({"a": jnp.zeros(4)})
    _, state = step({"a": jnp.array([1.0, 2.0, 3.0, 4.0])}, state)
    updates, _ = step({"a": jnp.array([9.0, -9.0, 1.0, 4.0])}, state)
    np.testing.assert_array_equal(updates["a"], [4.0, -4.0, 1.0, 4.0])


def test_nothing_is_carried_over_by_devices_that_share_gradients():
    with pytest.raises(ValueError, match="processes that share gradients cannot carry over"):
        mapped(clip(UClip(ClipGradByGlobalNorm(1.0)), axis_name="data"))
