"""From the state of a training step to an event, for sinks."""

from __future__ import annotations

import math
import time
from typing import Any

import jax
import jax.numpy as jnp

from gradclip.errors import shown
from gradclip.optax.last import Last, largest
from gradclip.rules.arguments import real_number
from gradclip.rules.rule import AnyRule, checked_rule, rules_in
from gradclip.rules.scope import Element
from gradclip.telemetry import Event


def true_numbers(host: Last) -> Last:
    """The numbers of a step as they are, from the type that a state has for them; see `Last`."""
    numbers: dict[str, Any] = {
        "norm_before": float(host.norm_before) * float(host.excess_before),
        "norm_after": float(host.norm_after) * float(host.excess_after),
    }
    if float(host.threshold) >= largest(host.threshold.dtype):
        numbers["threshold"] = math.inf
    return host._replace(**numbers)


def event_of(last: Last, *, step: int, rule: AnyRule) -> Event:
    """The event of a step, read from the device in one copy: call it outside `jit`, every so many steps.

    `last` is `optax.tree.get(opt_state, "last")`, `step` the number of the step, `rule` the one that is applied. In the
    state of a `flax.nnx.Optimizer` its arrays are wrapped, so there a condition is `bool(jnp.asarray(last.clipped))`.
    Tensors are not named: `nonfinite` counts the leaves (or rows) with a non-finite element. A sink takes it:
    `gradclip.telemetry.jsonl("runs/first")(event)`.

    >>> tx = gradclip.optax.clip(rule := gradclip.ClipGradByGlobalNorm(1.0))
    >>> params = {"w": jax.numpy.zeros(2)}
    >>> updates, state = tx.update({"w": jax.numpy.array([3.0, 4.0])}, tx.init(params), params)
    >>> event_of(state.last, step=0, rule=rule).norm_before
    5.0
    """
    if not isinstance(last, Last):
        raise TypeError(f'last is what a step did, got {shown(last)}: write optax.tree.get(opt_state, "last")')
    number = real_number(step)
    if number is None or not number.is_integer():
        raise TypeError(f"step is the number of the step, got {shown(step)}: write step=0")
    rule = checked_rule(rule)
    host = true_numbers(Last(*jax.device_get([jnp.asarray(field) for field in last])))
    first = rules_in(rule)[0]
    norm = "Linf" if isinstance(first.scope, Element) else type(first.norm).__name__
    return Event.of(host, step=int(number), rule=repr(rule), engine="jax", norm=norm, time=time.time())
