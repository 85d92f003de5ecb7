"""For the door of Optax: bugs planted, on which its tests are red."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import optax
import pytest

import gradclip.optax.last
import gradclip.optax.state
import gradclip.optax.telemetry
import gradclip.optax.transform
from gradclip import AutoClip, ClipGradByGlobalNorm, Schedule
from optax_door import test_debug_flags, test_largest_norms, test_no_state, test_record
from planting import Plant


def infinite(norm, dtype):
    return jnp.asarray(norm).astype(dtype), jnp.ones((), dtype)


def cut_off(norm, dtype):
    return jnp.minimum(norm, gradclip.optax.last.largest(dtype)).astype(dtype), jnp.ones((), dtype)


def first_state(tree):
    return list(gradclip.optax.state.placed_states(tree))[:1]


PLANTS = [
    Plant("a memory is begun anew at every step", test_no_state.test_a_rule_that_remembers_says_to_call_init,
          (test_no_state.WITH[1], None), gradclip.optax.transform, "need_of_state", lambda rule, inner: None),
    Plant("a schedule stays at its first step", test_no_state.test_a_rule_that_remembers_says_to_call_init,
          (test_no_state.COUNTING[0], optax.EmptyState()), Schedule, "reads_step", False),
    Plant("an infinite threshold", test_debug_flags.require_the_same_under_the_flags,
          (ClipGradByGlobalNorm(None), test_debug_flags.DTYPES), gradclip.optax.last, "largest", lambda dtype: math.inf,
          FloatingPointError),
    Plant("a memory in float32 beside norms in float64", test_debug_flags.require_the_same_under_the_flags,
          (AutoClip(50), test_debug_flags.DTYPES), gradclip.optax.state, "_wide", lambda value: value, ValueError),
    Plant("a norm beyond float32 is infinite", test_largest_norms.test_a_norm_beyond_float32_is_told_as_it_is,
          (jnp.float32,), gradclip.optax.last, "_split", infinite),
    Plant("a norm beyond float32 is cut off", test_largest_norms.test_a_norm_beyond_float32_is_told_as_it_is,
          (jnp.float32,), gradclip.optax.last, "_split", cut_off),
    Plant("the first of several clips is recorded", test_record.test_what_is_not_the_state_of_one_clip_is_refused,
          (next(iter(test_record.REFUSED)),), gradclip.optax.telemetry, "placed_states", first_state),
    Plant("the device is read number by number", test_record.test_the_device_is_read_once,
          (), gradclip.optax.telemetry, "on_host", lambda *fields: [jax.device_get(field) for field in fields]),
]  # fmt: skip


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.what)
def test_a_planted_bug_turns_the_test_red(plant):
    plant.check()
