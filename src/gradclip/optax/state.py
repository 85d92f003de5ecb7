"""The state of `clip`: a tree of arrays with the same structure and types at every step, for compiled loops."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.tree_util import keystr, tree_flatten_with_path
from jax.typing import DTypeLike

from gradclip.optax.last import Last, largest, nothing
from gradclip.rules.arrays import Operand
from gradclip.rules.rule import AnyRule, Carry, rules_in
from gradclip.rules.threshold import State
from gradclip.step.memory import Key, Memory, key_of, text_of
from gradclip.step.policy import checked_skip_limit
from gradclip.step.respond import too_many_skips

Thresholds: TypeAlias = dict[str, dict[str, Array]]
"""The memory of each threshold that adapts."""


class ClipState(NamedTuple):
    """The state of `clip`.

    `step` counts the updates (int32). `thresholds` has the memory of each threshold that adapts, float32 (float64 under
    `jax_enable_x64`). `last` says what the last step did. `inner` is the state of the wrapped optimizer, empty if there
    is none. `carried` has what a rule that carries over took away from each leaf, float32 or wider, by name.
    `consecutive_skips` counts the steps that were left out since the last one that was not (int32): see `check_skips`.
    `tensors` has the norm of each leaf in the last step before clipping, by name, with `clip(..., tensors=True)` alone;
    one that float32 cannot hold is its largest number there.

    >>> state = gradclip.optax.clip(gradclip.ZClip()).init({"w": jnp.zeros(2)})
    >>> int(state.step), int(state.consecutive_skips)
    (0, 0)
    """

    step: Array
    thresholds: Thresholds
    last: Last
    inner: optax.OptState = ()
    carried: dict[str, Array] = {}  # noqa: RUF012  # of a named tuple, and never changed
    consecutive_skips: Array | np.integer = np.int32(0)
    tensors: dict[str, Array] = {}  # noqa: RUF012  # of a named tuple, and never changed


NO_STATE = "there is no state of gradclip.optax.clip in it: give the state that tx.update returned"
BEGIN = "begin with state = tx.init(params), and hand over the state that each update returns"


def float_type() -> Any:
    """The type of the floats of a state: float32, and float64 where JAX is not limited to 32 bits."""
    return jax.dtypes.canonicalize_dtype(jnp.float64)


def begun(inner: optax.OptState = ()) -> ClipState:
    """The state before the first step of a rule that remembers nothing."""
    step, skips = jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)  # two arrays, to be donated each
    return ClipState(step, {}, nothing(float_type()), inner, consecutive_skips=skips)


def check_skips(opt_state: Any, max_consecutive_skips: int) -> None:
    """Raise `TooManySkips` where more steps in a row were skipped than that, as a compiled step cannot.

    It waits for the device to read a number: call it every so many steps. `opt_state` is the state of the optimizer, or
    of the whole chain that `clip` stands in; `ValueError` where there is no `clip`.

    >>> tx = gradclip.optax.clip(gradclip.ClipGradByGlobalNorm(1.0), inner=optax.sgd(0.1), on_nonfinite="skip")
    >>> params = {"w": jnp.zeros(2)}
    >>> updates, state = tx.update({"w": jnp.array([jnp.nan, 1.0])}, tx.init(params), params)
    >>> check_skips(state, max_consecutive_skips=1)
    >>> state.consecutive_skips
    Array(1, dtype=int32)
    """
    limit = checked_skip_limit(max_consecutive_skips)
    states = list(clip_states(opt_state))
    if not states:
        raise ValueError(NO_STATE)
    for state in states:
        skips, step = (int(number) for number in jax.device_get((state.consecutive_skips, state.step)))
        if limit is not None and skips > limit:
            raise too_many_skips(skips, limit, step - 1)


def clip_states(tree: Any) -> Iterator[ClipState]:
    """The states of each `clip` in a tree, also of one that another one wraps."""
    yield from (state for _, state in placed_states(tree))


def placed_states(tree: Any) -> Iterator[tuple[str, ClipState]]:
    """The same with the place of each in the tree, as it is written in Python: "[0].inner"."""
    for path, found in tree_flatten_with_path(tree, is_leaf=lambda part: isinstance(part, ClipState))[0]:
        if isinstance(found, ClipState):
            yield keystr(path), found
            yield from ((f"{keystr(path)}.inner{place}", state) for place, state in placed_states(found.inner))


def need_of_state(rule: AnyRule, inner: object) -> str | None:
    """What of earlier steps is needed from a state, in words; None if nothing is."""
    thresholds = [single.threshold for single in rules_in(rule)]
    if isinstance(rule, Carry) or any(threshold.memory_rows() != {} for threshold in thresholds):
        return f"what is kept of earlier steps ({rule!r})"
    if any(threshold.reads_step for threshold in thresholds):
        return f"the number of the step ({rule!r})"
    return None if inner is None else "the state of the optimizer that it wraps"


def given_state(state: object, need: str | None) -> ClipState:
    """The state that `update` was given, or a first one for none where there is no `need` of one."""
    if isinstance(state, ClipState):  # of NumPy where it was read from a file, which arithmetic in place would change
        arrays: ClipState = jax.tree.map(jnp.asarray, state._replace(inner=()))
        return arrays._replace(inner=state.inner)
    if state is not None and not isinstance(state, optax.EmptyState):
        raise TypeError(f"the state of clip is a ClipState, got {type(state).__name__}: {BEGIN}")
    if need is not None:
        raise ValueError(f"clip needs {need}, and update was given {state!r} for its state: {BEGIN}")
    return begun()


def state_of(memory: Memory, last: Last, dtype: DTypeLike) -> ClipState:
    """The state with this memory: text as keys, arrays as values, the floats of thresholds as `dtype`."""
    thresholds = {
        text_of(key): {name: _kept(value, dtype) for name, value in state.items()}
        for key, state in memory.thresholds.items()
    }
    step: Operand = memory.step
    return ClipState(step, thresholds, last, carried=memory.carried)


def memory_of(state: ClipState) -> Memory:
    """The memory in a state, as a clipper takes it."""
    thresholds: dict[Key, State] = {
        key_of(text): {name: _wide(value) for name, value in each.items()} for text, each in state.thresholds.items()
    }
    return Memory(state.step, thresholds, state.carried)


def _wide(value: Array) -> Array:
    """`value` in the type that thresholds are computed in; strict promotion joins no two types."""
    return value.astype(jnp.float64) if jnp.issubdtype(value.dtype, jnp.floating) else value


def _kept(value: Operand, dtype: DTypeLike) -> Array:
    """`value` as an array; a finite number beyond `dtype` becomes its largest, so that nothing learns an infinity."""
    array = jnp.asarray(value)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        return array.astype(jnp.int32 if jnp.issubdtype(array.dtype, jnp.integer) else array.dtype)
    most = largest(dtype)
    return jnp.where(jnp.isfinite(array), jnp.clip(array, -most, most), array).astype(dtype)
