"""`clip` inside what Optax, Flax and JAX put around a transformation."""

from dataclasses import replace

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint
import pytest
from flax import nnx

from gradclip import (
    AGC,
    L2,
    LARC,
    AdaGC,
    ClipGradByGlobalNorm,
    ClipGradByNorm,
    ClipGradByValue,
    Element,
    Global,
    Linf,
    Lp,
    Normalize,
    Row,
    Rule,
    Schedule,
    Smooth,
    Tensor,
    UClip,
    WeightRatio,
)
from gradclip.optax import clip, event_of

GRADIENTS = {"a": jnp.array([3.0]), "b": jnp.array([4.0])}
RULE = ClipGradByGlobalNorm(1.0)


def last(state):
    return optax.tree.get(state, "last")


def stepped(tx, gradients=GRADIENTS, **extra):
    return jax.jit(tx.update)(gradients, tx.init(gradients), gradients, **extra)


def test_in_a_chain_its_last_result_is_found_by_name():
    updates, state = stepped(optax.chain(clip(RULE), optax.sgd(1.0)))
    assert float(updates["a"][0]) == pytest.approx(-0.6, rel=1e-6)
    assert float(last(state).norm_before) == 5.0


BROKEN = {"a": jnp.array([jnp.nan, 3.0]), "b": jnp.array([4.0])}


def zeroed(*transformations):
    """What a chain of these makes of gradients with a NaN."""
    return stepped(optax.chain(*transformations), BROKEN)[0]


@pytest.mark.parametrize(("rule", "rest"), [(RULE, 0.0), (ClipGradByNorm(1.0), 1.0)], ids=repr)
def test_before_zero_nans_a_broken_segment_is_let_through_unless_it_is_zeroed(rule, rest):
    """The norm of the finite ones is 5; kept, 3 and 4 (or 3, where each leaf has its own norm) come out unclipped."""
    kept = zeroed(clip(rule), optax.zero_nans())
    assert kept["a"].tolist() == [0.0, 3.0]
    assert kept["b"].tolist() == [4.0 if rule == RULE else 1.0]
    after = zeroed(clip(rule, on_nonfinite="zero"), optax.zero_nans())
    assert (after["a"].tolist(), after["b"].tolist()) == ([0.0, 0.0], [rest])


@pytest.mark.parametrize("policy", ["keep", "zero"])
def test_after_zero_nans_what_is_finite_is_clipped_by_the_finite_norm(policy):
    updates = zeroed(optax.zero_nans(), clip(RULE, on_nonfinite=policy))
    np.testing.assert_allclose(updates["a"], [0.0, 0.6], rtol=1e-6)
    np.testing.assert_allclose(updates["b"], [0.8], rtol=1e-6)


def test_masked_leaves_are_not_measured():
    updates, state = stepped(optax.masked(clip(RULE), {"a": True, "b": False}))
    assert float(last(state).norm_before) == 3.0
    assert (float(updates["a"][0]), float(updates["b"][0])) == (1.0, 4.0)


def parts(first):
    make = {"x": optax.chain(first(), optax.sgd(1.0)), "y": optax.chain(first(), optax.sgd(10.0))}
    return optax.multi_transform(make, {"a": "x", "b": "y"})


def test_before_multi_transform_there_is_one_norm_over_its_parts():
    updates, _ = stepped(optax.chain(clip(RULE), parts(optax.identity)))
    np.testing.assert_allclose([updates["a"][0], updates["b"][0]], [-0.6, -8.0], rtol=1e-6)


def test_inside_multi_transform_each_part_sees_all_updates_and_takes_its_own():
    updates, state = stepped(parts(lambda: clip(RULE)), all_updates=GRADIENTS)
    np.testing.assert_allclose([updates["a"][0], updates["b"][0]], [-0.6, -8.0], rtol=1e-6)
    norms = optax.tree.get_all_with_path(state, "norm_before")
    assert [float(norm) for _, norm in norms] == [5.0, 5.0]


def test_inside_multi_transform_without_all_updates_each_part_has_a_norm_of_its_own():
    updates, _ = stepped(parts(lambda: clip(RULE)))
    np.testing.assert_allclose([updates["a"][0], updates["b"][0]], [-1.0, -10.0], rtol=1e-6)


@pytest.mark.parametrize("rule", [AGC(0.01), LARC(), ClipGradByNorm(1.0), ClipGradByValue(0.5)], ids=repr)
def test_a_rule_that_shares_nothing_needs_no_other_updates(rule):
    weights = {"a": jnp.ones(2), "b": jnp.ones(3)}
    both = stepped(parts(lambda: clip(rule)), weights, all_updates=weights)[0]
    alone = stepped(parts(lambda: clip(rule)), weights)[0]
    assert jax.tree.all(jax.tree.map(lambda x, y: bool((x == y).all()), both, alone))


@pytest.mark.parametrize(
    "rule", [AdaGC(), Rule(threshold=WeightRatio(0.1)), UClip(ClipGradByGlobalNorm(1.0))], ids=repr
)
def test_a_rule_that_has_something_of_each_leaf_is_to_stand_before_the_parts(rule):
    with pytest.raises(ValueError, match=r"put clip before multi_transform, optax\.chain"):
        stepped(parts(lambda: clip(rule)), all_updates=GRADIENTS)


def test_all_updates_that_lack_a_leaf_are_refused_by_its_name():
    with pytest.raises(ValueError, match="all_updates has no leaf 'b'"):
        stepped(parts(lambda: clip(RULE)), all_updates={"a": GRADIENTS["a"]})


def test_multi_steps_clips_the_mean_of_the_accumulated_gradients():
    tx = optax.MultiSteps(optax.chain(clip(RULE), optax.sgd(1.0)), every_k_schedule=2)
    state, updates = tx.init(GRADIENTS), None
    for factor in (0.5, 1.5):
        updates, state = jax.jit(tx.update)(jax.tree.map(lambda g, f=factor: f * g, GRADIENTS), state, GRADIENTS)
    np.testing.assert_allclose(updates["a"], [-0.6], rtol=1e-6)
    assert float(last(state).norm_before) == 5.0


@pytest.mark.parametrize("make", [ClipGradByGlobalNorm, ClipGradByNorm])
def test_a_threshold_may_be_a_hyperparameter(make):
    tx = optax.inject_hyperparams(lambda clip_norm: clip(make(clip_norm)))(clip_norm=2.0)
    step, state = jax.jit(tx.update), tx.init(GRADIENTS)
    _, state = step(GRADIENTS, state)
    assert float(last(state).threshold) == 2.0
    state.hyperparams["clip_norm"] = jnp.asarray(0.5)
    updates, state = step(GRADIENTS, state)
    assert float(last(state).threshold) == 0.5
    assert float(optax.tree.norm(updates)) == pytest.approx(
        0.5 if make is ClipGradByGlobalNorm else 0.5 * 2**0.5, rel=1e-6
    )


COMPUTED = [
    Rule(Global(), L2(), threshold=Schedule(lambda step: 1.0 - step)),
    Rule(Tensor(), Lp(3.0), threshold=Schedule(lambda step: 1.0 - step)),
    Rule(Row(), L2(), threshold=Schedule(lambda step: 1.0 - step), response=Smooth("tanh")),
    Rule(Tensor(), L2(), threshold=Schedule(lambda step: 1.0 - step), response=Normalize()),
    Rule(Element(), Linf(), threshold=Schedule(lambda step: 1.0 - step)),
    Rule(Element(), Linf(), threshold=Schedule(lambda step: 1.0 - step), response=Smooth()),
    Rule(Element(), Linf(), threshold=Schedule(lambda step: jnp.asarray(1.0 - step, jnp.float32)), response=Smooth()),
]


@pytest.mark.parametrize("rule", COMPUTED, ids=repr)
def test_a_limit_that_becomes_0_writes_zeros_and_a_negative_one_nothing(rule):
    """The limits are 1, 0 and -1; where it is 0 the element that is 0 already must not become NaN."""
    gradients = {"w": jnp.array([[3.0, 0.0], [0.0, 0.0]])}
    tx = clip(rule)
    state = tx.init(gradients)
    updates, state = jax.jit(tx.update)(gradients, state)
    assert 0.0 < float(updates["w"][0, 0]) <= 1.0
    updates, state = jax.jit(tx.update)(gradients, state)
    assert not updates["w"].any()
    assert (float(state.last.threshold), bool(state.last.clipped)) == (0.0, True)
    updates, state = jax.jit(tx.update)(gradients, state)
    assert (updates["w"] == gradients["w"]).all()
    assert (float(state.last.threshold), bool(state.last.clipped)) == (-1.0, False)


@pytest.mark.parametrize("rule", COMPUTED, ids=repr)
def test_a_limit_that_is_no_number_writes_nothing_and_says_so(rule):
    rule = replace(rule, threshold=Schedule(lambda step: jnp.sqrt(-1.0 - step)))
    gradients = {"w": jnp.array([[3.0, 0.0], [0.0, 0.0]])}
    updates, state = stepped(clip(rule), gradients)
    assert (updates["w"] == gradients["w"]).all()
    assert np.isnan(state.last.threshold)
    assert not state.last.clipped


def test_a_hyperparameter_may_follow_a_schedule_of_optax():
    tx = optax.inject_hyperparams(lambda limit: clip(ClipGradByNorm(limit)))(limit=optax.linear_schedule(4.0, 2.0, 2))
    step, state = jax.jit(tx.update), tx.init({"a": jnp.zeros(1)})
    found = []
    for _ in range(3):
        updates, state = step({"a": jnp.array([10.0])}, state)
        found.append(float(updates["a"][0]))
    assert found == pytest.approx([4.0, 3.0, 2.0], rel=1e-6)


def test_what_an_optimizer_of_nnx_did_becomes_an_event():
    """Its arrays are wrapped, and a wrapped one without axes has no truth of its own."""
    model = nnx.Linear(2, 1, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.chain(clip(ClipGradByGlobalNorm(1e-3)), optax.sgd(0.1)), wrt=nnx.Param)
    gradients = nnx.grad(lambda model: (model(jnp.ones((4, 2))) ** 2).mean() + model.bias[0])(model)
    optimizer.update(model, gradients)
    state = last(optimizer.opt_state)
    event = event_of(state, step=3, rule=RULE)
    assert (event.step, event.clipped, event.norm_after) == (3, True, pytest.approx(1e-3, rel=1e-6))
    assert bool(jnp.asarray(state.clipped))


def test_in_a_scan_the_state_is_carried():
    tx = optax.chain(clip(RULE), optax.adam(0.1))

    def step(carry, size):
        params, state = carry
        updates, state = tx.update(jax.tree.map(lambda g: g * size, GRADIENTS), state, params)
        return (optax.apply_updates(params, updates), state), last(state).norm_before

    start = (GRADIENTS, tx.init(GRADIENTS))
    (_, state), norms = jax.jit(lambda start: jax.lax.scan(step, start, jnp.array([1.0, 2.0, 0.1])))(start)
    np.testing.assert_allclose(norms, [5.0, 10.0, 0.5], rtol=1e-6)
    assert int(optax.tree.get(state, "step")) == 3


@pytest.mark.parametrize("limit", [1e9, 1.0])
def test_donated_gradients_stay_where_they_are(limit):
    tx = clip(ClipGradByGlobalNorm(limit))
    gradients = {f"g{i}": jnp.full((64, 64), i + 1.0) for i in range(5)}
    places = {name: g.unsafe_buffer_pointer() for name, g in gradients.items()}
    updates, _ = jax.jit(tx.update, donate_argnums=(0, 1))(gradients, tx.init(gradients))
    assert {name: g.unsafe_buffer_pointer() for name, g in updates.items()} == places
    assert all(g.is_deleted() for g in gradients.values())


def test_it_is_mapped_over_a_batch_of_models():
    """Two members with the norms 5 and 0.5; compiled inside and outside of the map."""
    tx = clip(RULE)
    batch = {"a": jnp.array([[3.0], [0.3]]), "b": jnp.array([[4.0], [0.4]])}
    states = jax.vmap(tx.init)(batch)
    for step in (jax.vmap(jax.jit(tx.update)), jax.jit(jax.vmap(tx.update))):
        updates, after = step(batch, states)
        np.testing.assert_allclose(updates["a"], [[0.6], [0.3]], rtol=1e-6)
        np.testing.assert_allclose(after.last.norm_before, [5.0, 0.5], rtol=1e-6)


class Net(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.layers = nnx.List([nnx.Linear(4, 16, rngs=rngs), nnx.Linear(16, 1, rngs=rngs)])

    def __call__(self, x):
        return self.layers[1](nnx.tanh(self.layers[0](x)))


def test_a_flax_model_trains_with_it():
    """Least squares on 256 points; targets of size 1000 make gradients that would throw the net far without."""
    model = Net(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.chain(clip(RULE), optax.adam(0.01)), wrt=nnx.Param)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((256, 4)), jnp.float32)
    y = jnp.tanh(x.sum(axis=1, keepdims=True)) * 3.0

    @nnx.jit
    def train(model, optimizer):
        loss, gradients = nnx.value_and_grad(lambda m: jnp.mean((m(x) - y) ** 2))(model)
        optimizer.update(model, gradients)
        return loss

    losses = [float(train(model, optimizer)) for _ in range(200)]
    assert losses[-1] < losses[0] / 10
    assert float(optimizer.opt_state[0].last.norm_after[...]) <= 1.0 + 1e-6


def test_patterns_match_the_names_of_a_flax_model():
    names = []
    tx = clip(RULE, need_clip=lambda name: names.append(name) or True)
    model = Net(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    optimizer.update(model, nnx.grad(lambda m: m(jnp.ones((1, 4))).sum())(model))
    assert any(name.startswith("layers.0.kernel") for name in names), names


def test_a_state_goes_through_flax_and_orbax_and_back(tmp_path):
    tx = optax.chain(clip(RULE), optax.adam(0.1))
    _, state = stepped(tx)
    flaxed = flax.serialization.from_bytes(tx.init(GRADIENTS), flax.serialization.to_bytes(state))
    with orbax.checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
    with orbax.checkpoint.StandardCheckpointer() as checkpointer:
        restored = checkpointer.restore(tmp_path / "state", tx.init(GRADIENTS))
    for other in (flaxed, restored):
        assert jax.tree.structure(other) == jax.tree.structure(state)
        same = jax.tree.map(lambda a, b: np.asarray(a).tobytes() == np.asarray(b).tobytes(), state, other)
        assert all(jax.tree.leaves(same))
