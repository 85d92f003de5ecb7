"""Every rule that adapts, in a compiled step with its memory in the state, against the reference engine."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradclip.optax
from few import few_shapes
from gradclip import Group
from gradclip.clipper import Clipper
from gradclip.errors import GradclipWarning
from gradclip.rules.response import SkipStep
from gradclip.rules.rule import rules_in
from gradclip.rules.threshold import SecondMoment
from gradclip.testing import ordinary_gradients
from gradclip.testing.bench import differences, weights_like
from gradclip.testing.check import adaptive_rules
from gradclip.testing.laws import STREAM
from jax_bench import BENCH

RULES = [
    rule
    for rule in adaptive_rules()
    if not any(isinstance(one.scope, Group) or isinstance(one.threshold, SecondMoment) for one in rules_in(rule))
]
"""A tree knows no parameter groups; second moments are given to `update`, which has its own test."""

MEMORY = 64 * 2.0**-24
"""The memory is float32: in each of 12 steps it is rounded, relative to norms that differ by factors of up to 10."""


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_a_compiled_step_learns_as_the_reference_does(rule):
    arrays = [array.astype(np.float32) for array in few_shapes(ordinary_gradients())]
    params = {f"t{i}": jnp.asarray(one, jnp.float32) for i, one in enumerate(weights_like(arrays))}
    skips = any(isinstance(one.response, SkipStep) for one in rules_in(rule))
    tx = gradclip.optax.clip(rule, inner=optax.identity() if skips else None)
    update, state, other = jax.jit(tx.update), tx.init(params), Clipper(rule)
    for step, factor in enumerate(STREAM):
        gradients = [array * np.float32(factor) for array in arrays]
        found, state = update({f"t{i}": jnp.asarray(one) for i, one in enumerate(gradients)}, state, params)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", GradclipWarning)
            expected = BENCH.oracle.clip(other, gradients)
        assert bool(state.last.skipped) == expected.result.skipped
        for i, truth in enumerate(expected.after if not expected.result.skipped else ()):
            out = np.asarray(found[f"t{i}"], np.float64)
            wrong = differences(out, truth, 2 * BENCH.tolerance + MEMORY, BENCH.smallest)
            assert not wrong, f"step {step}, t{i}: {wrong}"
