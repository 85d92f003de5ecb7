"""What a type checker says of `gradclip.optax`: every public name, as a user writes it."""

from typing import assert_type, cast

import jax
import jax.numpy as jnp
import optax

import gradclip
import gradclip.optax
from gradclip.telemetry import Event, Telemetry, memory

rule = gradclip.ClipGradByGlobalNorm(1.0)
params = {"kernel": jnp.zeros((10, 1)), "bias": jnp.zeros(1)}
tx = optax.chain(gradclip.optax.clip(rule, need_clip=lambda name: name != "bias"), optax.adamw(1e-3))
alone = gradclip.optax.clip(rule, inner=optax.adam(1e-3), on_nonfinite="skip", axis_name=None)
assert_type(alone, optax.GradientTransformationExtraArgs)
state = tx.init(params)
grads = {"kernel": jnp.full((10, 1), 3.0), "bias": jnp.array([4.0])}
updates, state = tx.update(grads, state, params)

last = cast(gradclip.optax.Last, optax.tree.get(state, "last"))
assert_type(last.norm_before, jax.Array)
assert_type(last.clipped, jax.Array)
event = assert_type(gradclip.optax.event_of(last, step=0, rule=rule), Event)
written = gradclip.optax.record(state, Telemetry(memory()), rule=rule, loss=jnp.asarray(1.0))
assert_type(written, Event)

own = cast(gradclip.optax.ClipState, alone.init(params))
assert_type(own.last, gradclip.optax.Last)
gradclip.optax.check_skips(own, max_consecutive_skips=5)
