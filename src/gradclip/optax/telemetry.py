"""From the state of a training step to an event, for sinks."""

from __future__ import annotations

import functools
import math
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradclip.errors import NothingClipped, shown
from gradclip.optax.last import Last, largest
from gradclip.optax.state import NO_STATE, ClipState, placed_states
from gradclip.rules.arguments import real_number
from gradclip.rules.arrays import Operand
from gradclip.rules.rule import AnyRule, checked_rule
from gradclip.step.gradients import one_float, refuse_many
from gradclip.telemetry import Event, Telemetry, jsonl
from gradclip.telemetry.collector import described
from gradclip.telemetry.folder import checked_path
from gradclip.telemetry.observed import norm_of


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
    Tensors are not named: `nonfinite` counts the leaves (or rows) with a non-finite element. `record` finds `last` and
    the number of the step in a state, and writes the event to a run.

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
    return _event(Last(*on_host(*last)), int(number), rule)


def record(
    opt_state: Any, run: str | os.PathLike[str] | Telemetry, *, rule: AnyRule, loss: Operand | None = None
) -> Event:
    """Write what the last step did to a run, and return it: call it after a compiled step, every so many steps.

    `opt_state` is the state of the clip, or any tree that it stands in: that of a chain, of an optimizer of Equinox, or
    a `flax.nnx.Optimizer`. `run` is the folder of the run, which `gradclip report` reads and which stays open until the
    program ends, or a `Telemetry` with the sinks that you want; each clip has a run of its own. `rule` is the one that
    is applied, `loss` the loss of that step. The number of the step is that of the state, which counts on where a
    training is resumed. The numbers are read in one copy, for which the host waits; nothing is compiled into the step.
    With several processes the first alone writes. Of a clip with `tensors=True` the event has the norm of each leaf.

    Raises `ValueError` where the tree has no clip or several, which it names by their places, and for the states of
    several trainings at once; `NothingClipped` before the first step; `TypeError` inside `jit`.

    >>> tx = gradclip.optax.clip(rule := gradclip.ClipGradByGlobalNorm(1.0))
    >>> params = {"w": jax.numpy.zeros(2)}
    >>> updates, opt_state = tx.update({"w": jax.numpy.array([3.0, 4.0])}, tx.init(params), params)
    >>> run = gradclip.telemetry.Telemetry(gradclip.telemetry.memory())
    >>> record(opt_state, run, rule=rule, loss=0.5).norm_before
    5.0
    """
    rule, telemetry = checked_rule(rule), _telemetry_of(run)
    if loss is not None:
        refuse_many("loss", loss)
    state, far = _only_state(opt_state), isinstance(loss, jax.Array)
    names = list(state.tensors)
    step, *numbers = on_host(state.step, *state.tensors.values(), *state.last, *([loss] if far else []))
    _refuse_steps(step)
    if telemetry.tensors and not names:
        raise ValueError("the state has no norms of tensors: gradclip.optax.clip(rule, tensors=True) puts them there")
    told = numbers.pop() if far else loss
    tensors = dict(zip(names, map(float, numbers[: len(names)]), strict=True))
    event = _event(Last(*numbers[len(names) :]), int(step) - 1, rule, None if told is None else one_float(told))
    event = replace(event, tensors=tensors or None)
    if jax.process_index() == 0:
        telemetry.tell(event, described(rule, "jax"))
    return event


def on_host(*fields: Any) -> list[Any]:
    """These numbers of a state, read in one copy."""
    arrays = [jnp.asarray(field) for field in fields]
    if any(isinstance(array, jax.core.Tracer) for array in arrays):
        raise TypeError("the numbers of a step are read on the host: do it after the compiled step, outside jit")
    return list(map(np.asarray, jax.device_get(arrays)))


def _event(last: Last, step: int, rule: AnyRule, loss: float | None = None) -> Event:
    host, norm = true_numbers(last), norm_of(rule)
    return Event.of(host, step=step, rule=repr(rule), engine="jax", norm=norm, time=time.time(), loss=loss)


def _only_state(tree: Any) -> ClipState:
    """The state of the one clip in a tree."""
    found = list(placed_states(tree))
    if not found:
        raise ValueError(NO_STATE)
    if len(found) > 1:
        places = [f"opt_state{place}" for place, _ in found]
        raise ValueError(
            f"there are {len(found)} clips in it, at {', '.join(places)}: give one of these, and each a run of its own"
        )
    return found[0][1]


def _refuse_steps(step: np.ndarray) -> None:
    """Raise where no step was made, and where these are the numbers of several trainings."""
    if step.ndim:
        raise ValueError(
            f"the state has an axis of {len(step)} trainings: record each by itself, jax.tree.map(lambda x: x[0], "
            "opt_state)"
        )
    if step == 0:
        raise NothingClipped("nothing was clipped yet: call record with the state that tx.update returned")


def _telemetry_of(run: str | os.PathLike[str] | Telemetry) -> Telemetry:
    """The telemetry that writes to `run`."""
    if not isinstance(run, Telemetry):
        return _opened(checked_path(run).absolute())
    if run.every > 1:
        raise ValueError("record reads a state at once: make Telemetry without every=, and call record every so often")
    return run


@functools.cache
def _opened(folder: Path) -> Telemetry:
    """The run in a folder, open until the program ends."""
    return Telemetry(jsonl(folder))
