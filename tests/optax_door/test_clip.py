"""The transformation alone: what it writes, what its state says, what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradclip
from few import few_shapes
from gradclip import ClipGradByGlobalNorm, ClipGradByNorm, ClipGradByValue, GradclipWarning, Rules, Schedule
from gradclip.clipper import Clipper
from gradclip.optax import ClipState, clip, event_of
from gradclip.rules.response import Raise, SkipStep
from gradclip.rules.rule import rules_in
from gradclip.step.gradients import Gradients
from gradclip.testing import ordinary_gradients, standard_rules
from gradclip.testing.bench import NORM_TOLERANCE, differences
from jax_bench import BENCH


def once(rule, gradients, **options):
    """One compiled step on `gradients`: what comes out and what the state says."""
    tx = clip(rule, **options)
    updates, state = jax.jit(tx.update)(gradients, tx.init(gradients))
    return updates, state.last


def test_the_global_norm_is_over_all_leaves():
    updates, last = once(ClipGradByGlobalNorm(1.0), {"a": jnp.array([3.0]), "b": [jnp.array(4.0)]})
    np.testing.assert_allclose(updates["a"], [0.6], rtol=1e-7)
    np.testing.assert_allclose(updates["b"][0], 0.8, rtol=1e-7)
    assert [float(x) for x in last[:4]] == pytest.approx([5.0, 1.0, 1.0, 0.2], rel=1e-7)
    assert (bool(last.clipped), int(last.nonfinite), bool(last.skipped)) == (True, 0, False)


def test_at_the_threshold_the_bits_stay():
    gradients = {"a": jnp.array([3.0, -0.0]), "b": jnp.array([4.0, 1e-45])}
    updates, last = once(ClipGradByGlobalNorm(5.0), gradients)
    for name, before in gradients.items():
        assert np.asarray(updates[name]).tobytes() == np.asarray(before).tobytes()
    assert not last.clipped
    assert float(last.coefficient) == 1.0


RULES = [
    rule
    for rule in standard_rules()
    if not any(isinstance(one.response, Raise) or one.threshold.reads_weights for one in rules_in(rule))
]


@pytest.mark.parametrize("rule", RULES[::4], ids=repr)
def test_a_compiled_step_does_and_says_what_the_reference_does(rule):
    """Compiled where JAX is limited to 32 bits. Tolerance: that of the laws for float32, see `Bench.tolerance`."""
    inner = optax.identity() if any(isinstance(one.response, SkipStep) for one in rules_in(rule)) else None
    gradients = {f"t{i}": jnp.asarray(values, jnp.float32) for i, values in enumerate(few_shapes(ordinary_gradients()))}
    arrays = [np.asarray(values).astype(np.float64) for values in gradients.values()]
    updates, last = once(rule, gradients, inner=inner)
    result = Clipper(rule).clip_gradients(Gradients(arrays, "t{}".format), BENCH.oracle.engine)
    event = event_of(last, step=0, rule=rule)
    for name in ("norm_before", "norm_after", "threshold", "coefficient", "clipped", "nonfinite", "skipped"):
        assert float(getattr(event, name)) == pytest.approx(float(getattr(result, name)), rel=2e-6), name
    for name, expected in zip(updates, arrays, strict=True):
        truth = np.zeros_like(expected) if result.skipped else expected
        wrong = differences(np.asarray(updates[name], np.float64), truth, 2 * (NORM_TOLERANCE + 3 * 2.0**-24), 1e-37)
        assert not wrong, f"{name}: {wrong}"


def test_the_state_keeps_its_structure_and_types():
    tx = clip(ClipGradByGlobalNorm(1.0))
    before = tx.init({"a": jnp.ones(2)})
    after = tx.update({"a": jnp.ones(2)}, before)[1]
    assert isinstance(after, ClipState)
    assert jax.tree.structure(before) == jax.tree.structure(after)
    for one, other in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        assert jax.typeof(one) == jax.typeof(other)
    assert int(after.step) == 1


def test_leaves_have_the_names_that_rules_match():
    rules = Rules({"*.bias": None, "*": ClipGradByNorm(1.0)})
    gradients = {"dense": {"kernel": jnp.array([3.0, 4.0]), "bias": jnp.array([30.0])}}
    updates, last = once(rules, gradients)
    np.testing.assert_allclose(updates["dense"]["kernel"], [0.6, 0.8], rtol=1e-7)
    assert updates["dense"]["bias"] == 30.0
    assert float(last.norm_before) == 5.0


def test_need_clip_leaves_a_leaf_out_of_measure_and_scaling():
    gradients = {"a": jnp.array([3.0, 4.0]), "head": [jnp.array([100.0])]}
    updates, last = once(ClipGradByGlobalNorm(1.0), gradients, need_clip=lambda name: name != "head.0")
    assert updates["head"][0] == 100.0
    assert float(last.norm_before) == 5.0


def test_none_and_leaves_that_were_not_differentiated_pass():
    count = np.zeros(3, jax.dtypes.float0)
    tx = clip(ClipGradByGlobalNorm(1.0))
    updates, _ = tx.update({"a": jnp.array([3.0, 4.0]), "b": None, "c": count}, tx.init({"a": jnp.ones(2)}))
    assert updates["b"] is None
    assert updates["c"] is count
    np.testing.assert_allclose(updates["a"], [0.6, 0.8], rtol=1e-7)


def test_an_integer_gradient_is_refused_by_name():
    with pytest.raises(TypeError, match=r"gradient of 'layer\.count' cannot be clipped: its dtype is int32"):
        once(ClipGradByGlobalNorm(1.0), {"layer": {"count": jnp.arange(3)}})


def test_complex_gradients_are_clipped_by_norm_and_refused_by_value():
    gradients = {"a": jnp.array([3.0 + 4.0j]), "b": jnp.array([12.0])}
    updates, last = once(ClipGradByGlobalNorm(1.3), gradients)
    assert float(last.norm_before) == 13.0
    np.testing.assert_allclose(updates["a"], [0.3 + 0.4j], rtol=1e-6)
    with pytest.raises(TypeError, match="'a' cannot be clipped: it is complex"):
        once(ClipGradByValue(1.0), gradients)


def test_float64_leaves_stay_float64_where_they_are_enabled():
    with jax.enable_x64(True):
        updates, last = once(ClipGradByGlobalNorm(1.0), {"a": jnp.array([3e150, 4e150])})
        assert updates["a"].dtype == jnp.float64
        np.testing.assert_allclose(updates["a"], [0.6, 0.8], rtol=1e-15)
        assert last.norm_after.dtype == jnp.float64
        assert float(last.norm_before) == pytest.approx(5e150, rel=1e-15)


def test_nothing_to_clip_is_said():
    tx = clip(ClipGradByGlobalNorm(1.0), need_clip=lambda name: False)
    with pytest.warns(GradclipWarning, match="none of the 1 leaves"):
        updates, _ = tx.update({"a": jnp.ones(2)}, tx.init({"a": jnp.ones(2)}))
    assert updates["a"].tolist() == [1.0, 1.0]


def test_what_a_compiled_step_cannot_do_is_refused_with_what_to_do():
    with pytest.raises(ValueError, match=r"cannot raise.*state\.last\.nonfinite"):
        clip(ClipGradByGlobalNorm(1.0), on_nonfinite="raise")
    with pytest.raises(ValueError, match="cannot raise"):
        clip(gradclip.Rule(response=Raise()))
    for rule, policy in ((ClipGradByGlobalNorm(1.0), "skip"), (gradclip.Rule(response=SkipStep()), "keep")):
        with pytest.raises(ValueError, match=r"cannot skip a step.*inner=optax\.adam"):
            clip(rule, on_nonfinite=policy)


@pytest.mark.parametrize("rule", [ClipGradByGlobalNorm(1e-309), ClipGradByValue(1.0, -1e-310)], ids=["norm", "value"])
def test_a_threshold_that_is_zero_to_jax_is_refused(rule):
    """It would make NaN of gradients of zero."""
    with pytest.raises(ValueError, match=r"a threshold of 1e-3.. is zero to JAX: write one from 2.23e-308"):
        clip(rule)


def test_a_schedule_follows_the_compiled_steps():
    tx = clip(ClipGradByNorm(Schedule((0, 4.0), (2, 2.0))))
    step, state = jax.jit(tx.update), tx.init({"a": jnp.zeros(1)})
    found = []
    for _ in range(4):
        updates, state = step({"a": jnp.array([10.0])}, state)
        found.append(float(updates["a"][0]))
    assert found == pytest.approx([4.0, 3.0, 2.0, 2.0], rel=1e-6)


def test_bounds_and_chains_follow_the_compiled_steps():
    limit = Schedule((0, 4.0), (2, 2.0))
    tx = clip(ClipGradByValue(limit) >> ClipGradByGlobalNorm(limit))
    step, state = jax.jit(tx.update), tx.init({"a": jnp.zeros(2)})
    found = []
    for _ in range(3):
        updates, state = step({"a": jnp.array([10.0, -1.0])}, state)
        found.append(updates["a"].tolist())
    # clamp to 4, 3, 2, then the norms sqrt(17), sqrt(10), sqrt(5) become 4, 3, 2
    truth = [[t * t / (t * t + 1) ** 0.5, -t / (t * t + 1) ** 0.5] for t in (4.0, 3.0, 2.0)]
    np.testing.assert_allclose(found, truth, rtol=1e-6)


def test_a_nan_is_kept_counted_and_nothing_else_is_written():
    gradients = {"a": jnp.array([jnp.nan, 30.0]), "b": jnp.array([40.0])}
    updates, last = once(ClipGradByGlobalNorm(1.0), gradients)
    assert updates["b"] == 40.0
    assert int(last.nonfinite) == 1
    assert not last.clipped
    zeroed, last = once(ClipGradByGlobalNorm(1.0), gradients, on_nonfinite="zero")
    assert [leaf.tolist() for leaf in jax.tree.leaves(zeroed)] == [[0.0, 0.0], [0.0]]
