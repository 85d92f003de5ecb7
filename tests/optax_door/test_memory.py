"""Thresholds that adapt: their memory lives in the state, survives being saved, and learns nothing from bad steps."""

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradclip import L2, AdaGC, AutoClip, ClipGradByNorm, Global, NormGrowth, Rule, Schedule, Tensor, UClip, ZClip
from gradclip.clipper import Clipper
from gradclip.optax import clip
from gradclip.testing import REFERENCE, standard_rules
from remembering import Following

RULE = Rule(Tensor(), L2(), Following()) >> Rule(Global(), L2(), Following(3.0))
PARAMS = {"a": jnp.zeros(2), "b": jnp.zeros((2, 2))}


def gradients(size):
    return {"a": jnp.array([3.0, 4.0]) * size, "b": jnp.full((2, 2), 0.5) * size}


def bits(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def test_the_threshold_follows_what_it_saw():
    """Following: 1 at first, then twice the mean of the norms: 5, then (5 + 2.5) / 2."""
    tx = clip(Rule(Global(), L2(), Following()))
    step, state = jax.jit(tx.update), tx.init(PARAMS)
    seen = []
    for size in (1.0, 0.5, 4.0):
        _, state = step({"a": jnp.array([3.0, 4.0]) * size, "b": jnp.zeros((2, 2))}, state)
        seen.append(float(state.last.threshold))
    assert seen == pytest.approx([1.0, 10.0, 7.5], rel=1e-6)


def test_the_memory_has_its_structure_from_the_first_state_on():
    tx = clip(RULE)
    state = tx.init(PARAMS)
    after = jax.jit(tx.update)(gradients(1.0), state)[1]
    assert jax.tree.structure(state) == jax.tree.structure(after)
    assert [jax.typeof(leaf) for leaf in jax.tree.leaves(state)] == [
        jax.typeof(leaf) for leaf in jax.tree.leaves(after)
    ]
    assert [float(jnp.max(state.thresholds[key]["count"])) for key in ("0 -1 0", "0 -1 1")] == [0.0, 0.0]
    _, states = jax.lax.scan(lambda s, size: (tx.update(gradients(size), s)[1], s.step), state, jnp.arange(1.0, 4.0))
    assert states.tolist() == [0, 1, 2]


ALIKE = {
    "each tensor": {"rule": RULE},
    "carried over": {"rule": UClip(ClipGradByNorm(1.0))},
    "a window": {"rule": AutoClip(50, window=4)},
    "the norms of tensors": {"rule": ClipGradByNorm(1.0), "tensors": True},
    "some leaves": {"rule": RULE, "need_clip": lambda name: name == "b"},
}


@pytest.mark.parametrize("what", ALIKE)
def test_what_is_remembered_before_the_first_step_is_what_a_step_of_zeros_leaves(what):
    """To the bit, in the same structure and types; a decision record says so of all that is remembered."""
    tx = clip(**ALIKE[what])
    state = tx.init(PARAMS)
    after = jax.jit(tx.update)(gradients(0.0), state)[1]
    for kept in ("thresholds", "carried", "tensors"):
        old, new = getattr(state, kept), getattr(after, kept)
        assert jax.tree.structure(old) == jax.tree.structure(new)
        assert jax.tree.map(jax.typeof, old) == jax.tree.map(jax.typeof, new)
        assert bits(old) == bits(new)
    assert jax.tree.leaves((state.thresholds, state.carried, state.tensors))


def test_all_that_any_rule_remembers_begins_as_zeros():
    """Of a step of zeros nothing is learnt, so what it leaves is what there was before."""
    seen = 0
    for clipper in map(Clipper, standard_rules()):
        REFERENCE.clip(clipper, [np.zeros((3, 4)), np.zeros(5), np.zeros(())])
        memories = [x for state in clipper.memories.states.values() for x in state.values()]
        for kept in (*memories, *clipper.carried.values()):
            assert not np.any(np.asarray(kept)), clipper.rule
            seen += 1
    assert seen > 30


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf])
def test_a_bad_step_teaches_nothing(bad):
    tx = clip(RULE)
    step = jax.jit(tx.update)
    state = step(gradients(1.0), tx.init(PARAMS))[1]
    after = step(gradients(bad), state)[1]
    assert bits(after.thresholds) == bits(state.thresholds)


def test_a_norm_beyond_float32_does_not_poison_the_memory():
    tx = clip(Rule(Global(), L2(), Following()))
    state = tx.init(PARAMS)
    for size in (6e37, 1.0):  # the norm of four numbers of 3e38 is 6e38
        _, state = jax.jit(tx.update)({"a": jnp.full(2, 3e38), "b": jnp.full((2, 2), 3e38) * size / 6e37}, state)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.thresholds))


def test_a_restored_state_goes_on_bit_for_bit():
    tx = clip(RULE)
    step, state = jax.jit(tx.update), tx.init(PARAMS)
    for size in (1.0, 3.0):
        _, state = step(gradients(size), state)
    restored = flax.serialization.from_bytes(tx.init(PARAMS), flax.serialization.to_bytes(state))
    for size in (0.3, 7.0):
        (one, state), (other, restored) = step(gradients(size), state), step(gradients(size), restored)
        assert bits((one, state)) == bits((other, restored))


@pytest.mark.parametrize("rule", [Rule(threshold=Schedule(lambda step: 4.0 - step)), AutoClip(50, window=5), RULE])
def test_a_state_of_numpy_arrays_is_taken_as_it_is_and_not_changed(rule):
    """As it is read from a file: writable, or not."""
    tx = clip(rule)
    _, state = tx.update(gradients(1.0), tx.init(PARAMS), PARAMS)
    expected = tx.update(gradients(2.0), state, PARAMS)
    for read in (jax.tree.map(np.array, state), jax.device_get(state)):
        before = bits(read)
        for _ in range(2):
            assert bits(tx.update(gradients(2.0), read, PARAMS)) == bits(expected)
        assert bits(read) == before


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (ZClip(), "is of another rule: it keeps"),
        (NormGrowth(), "is of another rule: it keeps"),
        (Rule(), "is of another rule: it keeps"),
        (AutoClip(50, window=6), "is of another rule: 'norms' has 5 numbers, not 6"),
    ],
    ids=repr,
)
def test_the_state_of_another_rule_is_refused(other, words):
    state = clip(AutoClip(50, window=5)).init(PARAMS)
    with pytest.raises(ValueError, match=words):
        clip(other).update(gradients(1.0), state, PARAMS)


def test_the_state_of_another_tree_is_refused():
    tx = clip(AdaGC())
    with pytest.raises(ValueError, match="is of other gradients: 'count' is of 1 tensors, and there are 2"):
        tx.update(gradients(1.0), tx.init({"a": jnp.zeros(2)}), PARAMS)


def test_what_another_rule_carried_is_refused():
    gradients = {"w": jnp.array([3.0, 4.0])}
    former = clip(UClip(ClipGradByNorm(1.0)))
    _, state = former.update(gradients, former.init(gradients), gradients)
    other = clip(ClipGradByNorm(1.0))
    with pytest.raises(ValueError, match="of another rule: it carries something over"):
        other.update(gradients, state, gradients)
