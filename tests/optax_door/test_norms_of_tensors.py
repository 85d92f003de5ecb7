"""`clip(rule, tensors=True)`: the norm of each leaf before clipping, in the state and in what `record` writes."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradclip import (
    RMS,
    AutoClip,
    ClipGradByGlobalNorm,
    ClipGradByNorm,
    ClipGradByValue,
    Constant,
    Global,
    Group,
    Linf,
    Lp,
    Row,
    Rule,
    Rules,
    UClip,
)
from gradclip.optax import clip, record
from gradclip.telemetry import Telemetry, memory, read_run

RANDOM = np.random.default_rng(0)
GRADIENTS = {
    "kernel": jnp.asarray(RANDOM.standard_normal((6, 4)) * 7, jnp.float32),
    "bias": jnp.asarray(RANDOM.standard_normal(5), jnp.float32),
    "half": jnp.asarray(RANDOM.standard_normal((3, 300)) * 100, jnp.float16),
}
TRUE_NORMS = {
    "L2": lambda x: math.sqrt((x**2).sum()),
    "Linf": lambda x: abs(x).max(),
    "Lp": lambda x: (abs(x) ** 3).sum() ** (1 / 3),
    "RMS": lambda x: math.sqrt((x**2).mean()),
}
RULES = {
    "global": (ClipGradByGlobalNorm(1.0), "L2"),
    "each": (ClipGradByNorm(1.0), "L2"),
    "groups": (Rule(scope=Group(), threshold=Constant(1.0)), "L2"),
    "rows": (Rule(Row(), threshold=Constant(1.0)), "L2"),
    "largest of rows": (Rule(Row(), Linf(), Constant(1.0)), "Linf"),
    "mean square of rows": (Rule(Row(), RMS(), Constant(1.0)), "RMS"),
    "mean square": (Rule(Global(), RMS(), Constant(1.0)), "RMS"),
    "cubes": (Rule(Global(), Lp(3.0), Constant(1.0)), "Lp"),
    "elements": (ClipGradByValue(0.5), "Linf"),
    "two phases": (ClipGradByValue(0.5) >> ClipGradByGlobalNorm(1.0), "Linf"),
    "by name": (Rules({"half": ClipGradByNorm(1.0), "*": ClipGradByGlobalNorm(1.0)}), "L2"),
    "adapts": (AutoClip(50), "L2"),
    "carries": (UClip(ClipGradByGlobalNorm(1.0)), "L2"),
}


def stepped(tx, gradients=GRADIENTS, steps=1):
    """The state after so many steps of a compiled loop, which takes one whose structure is the same each time."""
    params = jax.tree.map(jnp.zeros_like, gradients)

    def step(state, _):
        return tx.update(gradients, state, params)[1], None

    return jax.lax.scan(step, tx.init(params), None, steps)[0]


@pytest.mark.parametrize("name", RULES)
def test_the_norms_are_those_of_float64(name):
    rule, norm = RULES[name]
    found = stepped(clip(rule, tensors=True)).tensors
    assert found.keys() == GRADIENTS.keys()
    for leaf, gradient in GRADIENTS.items():
        # Up to 900 squares summed up in float32, and the norm rounded to it: a few times 2**-24 of the number.
        assert float(found[leaf]) == pytest.approx(TRUE_NORMS[norm](np.asarray(gradient, np.float64)), rel=2e-6)


def test_nothing_is_kept_where_it_is_not_asked_for():
    assert stepped(clip(RULES["global"][0])).tensors == {}


def test_leaves_that_are_left_out_have_none():
    tx = clip(ClipGradByGlobalNorm(1.0), need_clip=lambda name: name != "bias", tensors=True)
    assert stepped(tx).tensors.keys() == {"kernel", "half"}


def test_the_gradients_are_clipped_as_without_it():
    params = jax.tree.map(jnp.zeros_like, GRADIENTS)
    one, two = (clip(ClipGradByGlobalNorm(1.0), tensors=tensors) for tensors in (False, True))
    found, expected = (tx.update(GRADIENTS, tx.init(params), params)[0] for tx in (two, one))
    for leaf in GRADIENTS:  # the sum of the squares may differ in its last bit
        np.testing.assert_allclose(found[leaf], expected[leaf], rtol=2e-3 if leaf == "half" else 1e-6)


def test_what_is_no_number_shows_and_what_float32_cannot_hold_is_its_largest():
    gradients = {"nan": jnp.array([jnp.nan, 1.0]), "far": jnp.array([3e38, 3e38]), "fine": jnp.array([3.0, 4.0])}
    found = stepped(clip(ClipGradByNorm(1.0), tensors=True), gradients).tensors
    assert math.isnan(found["nan"])
    assert (float(found["far"]), float(found["fine"])) == (float(np.finfo(np.float32).max), 5.0)


def test_record_writes_them_to_a_run_that_has_the_largest(tmp_path):
    rule = ClipGradByGlobalNorm(1.0)
    tx = optax.chain(clip(rule, tensors=True), optax.adam(0.1))
    event = record(stepped(tx, steps=3), tmp_path / "run", rule=rule, loss=0.5)
    assert event.tensors == pytest.approx({leaf: np.linalg.norm(np.asarray(g, float)) for leaf, g in GRADIENTS.items()})
    (read,) = read_run(tmp_path / "run")
    assert (read.tensors, read.loss, read.norm_before) == (event.tensors, 0.5, event.norm_before)
    seen = memory()
    assert record(stepped(tx), Telemetry(seen, tensors=True), rule=rule).tensors == event.tensors
    with pytest.raises(ValueError, match=r"clip\(rule, tensors=True\)"):
        record(stepped(clip(rule)), Telemetry(seen, tensors=True), rule=rule)


def test_a_part_of_a_tree_and_a_word_are_refused():
    tx = clip(ClipGradByGlobalNorm(1.0), tensors=True)
    part = {"bias": GRADIENTS["bias"]}
    with pytest.raises(ValueError, match="put clip before multi_transform"):
        tx.update(part, tx.init(part), part, all_updates=GRADIENTS)
    with pytest.raises(TypeError, match="tensors"):
        clip(ClipGradByGlobalNorm(1.0), tensors="yes")
