"""From the state of a training step to an event, for sinks."""

from __future__ import annotations

import time

import jax

from gradclip.optax.last import Last
from gradclip.rules.rule import AnyRule, rules_in
from gradclip.rules.scope import Element
from gradclip.telemetry import Event


def event_of(last: Last, *, step: int, rule: AnyRule) -> Event:
    """The event of a step, read from the device in one copy: call it outside `jit`, every so many steps.

    `last` is `optax.tree.get(opt_state, "last")`, `step` the number of the step, `rule` the one that is applied.
    Tensors are not named: `nonfinite` counts the leaves (or rows) with a non-finite element. A sink takes it:
    `gradclip.telemetry.jsonl("runs/first")(event)`.

    >>> tx = gradclip.optax.clip(rule := gradclip.ClipGradByGlobalNorm(1.0))
    >>> params = {"w": jax.numpy.zeros(2)}
    >>> updates, state = tx.update({"w": jax.numpy.array([3.0, 4.0])}, tx.init(params), params)
    >>> event_of(state.last, step=0, rule=rule).norm_before
    5.0
    """
    host: Last = jax.device_get(last)
    first = rules_in(rule)[0]
    norm = "Linf" if isinstance(first.scope, Element) else type(first.norm).__name__
    return Event.of(host, step=step, rule=repr(rule), engine="jax", norm=norm, time=time.time())
