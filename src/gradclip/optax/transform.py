"""`clip`: a rule as an Optax transformation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from gradclip.clipper import Clipper
from gradclip.engines.base import SMALLEST, Slot
from gradclip.engines.jax import JAX
from gradclip.engines.jax_numbers import in_float64
from gradclip.engines.jax_pieces import on_mesh
from gradclip.errors import shown
from gradclip.optax.across import across_axes, refuse_mixed
from gradclip.optax.last import last_of, nothing, tensors_of
from gradclip.optax.leaves import (
    NeedClip,
    Tree,
    beside,
    chosen_leaves,
    leaves_from,
    name_of,
    replaced,
    zeros_like,
    zeros_of,
)
from gradclip.optax.placed import Places, mesh_in_force
from gradclip.optax.said import Said, checked_shardings, said_of
from gradclip.optax.state import ClipState, begun, float_type, given_state, memory_of, need_of_state, state_of
from gradclip.rules.arguments import checked_flag
from gradclip.rules.arrays import Operand
from gradclip.rules.rule import AnyRule, Carry, rules_in
from gradclip.rules.scope import Global, Group
from gradclip.rules.threshold import Bounds, Constant
from gradclip.step.gradients import Gradients, checked_need_clip
from gradclip.step.state_check import refuse_other_memory


def clip(
    rule: AnyRule,
    *,
    inner: optax.GradientTransformation | None = None,
    on_nonfinite: str = "keep",
    need_clip: NeedClip | None = None,
    axis_name: str | Sequence[str] | None = None,
    shardings: Tree = None,
    tensors: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Clip gradients by `rule`: with m the measure of a segment and t its threshold, `out = phi(m / t) * g`.

    For `ClipGradByGlobalNorm(c)` that is `g * min(1, c / ||g||)`, the norm taken over all leaves together, right to
    1e-6 for every finite gradient of 16 or 32 bits; at or below the threshold the gradients keep their bits. Shapes and
    dtypes stay. Leaves are called by their path, "layer.kernel", which is what the patterns of `Rules` match.

    `inner` is an optimizer to wrap, `clip(rule, inner=optax.adam(1e-3))`; only so can a step be skipped
    (`SkipStep`, `on_nonfinite="skip"`): then the updates are zeros and the optimizer's state stays, and the state of
    the clip counts the steps skipped in a row, for `gradclip.optax.check_skips(opt_state, 5)`. `on_nonfinite` is
    "keep", "skip" or "zero", see `gradclip.clipper.Clipper`; nothing waits for the device, so nothing can raise.
    With "keep" a segment that holds a NaN stays as it is, unclipped, so `optax.zero_nans()` after it takes the NaN away
    and lets the finite gradients beside it through in full size. `on_nonfinite="zero"` may stand there: such a segment
    becomes zeros, which under a global rule are all gradients of the step. To clip what is finite by the norm of what
    is finite, write `optax.chain(optax.zero_nans(), clip(rule))`.
    `need_clip(name)` is false for leaves that are neither measured nor scaled. `axis_name` names the axis (or axes)
    of a `shard_map` over which gradients are sharded; under `jit` with sharded arrays leave it out. `shardings` says
    how gradients lie under `jit` on automatic axes of a mesh, where a program does not know it: a tree of
    `NamedSharding` like them, `jax.tree.map(lambda p: p.sharding, params)`. Then a norm of all leaves is one
    all-reduce, and not one for each set of axes; gradients that lie otherwise are sent there first, so the numbers are
    the same. `tensors=True` puts the norm of each leaf into the state, for `record`; the norm of all is then summed up
    from those, which may change its last bits.

    The state is a `ClipState`; `optax.tree.get(opt_state, "last")` finds its `Last` in the state of a chain. A rule
    that needs nothing of earlier steps takes `None` or `optax.EmptyState()` for it, as the clips of optax do.
    After an optimizer in a chain it clips the update: `optax.chain(optax.adam(1e-3), clip(rule))`. A rule that reads
    the loss is told it by `update(..., loss=loss)`, or `value=`; one that reads the second moments by `moments=`, a
    tree like the gradients: `moments=optax.tree.get(opt_state, "nu")`.
    A limit may be a number that the program computes, as under `optax.inject_hyperparams`; where it becomes 0 zeros are
    written, where it is negative or NaN nothing is, and `last.threshold` shows it. One norm over the parts of
    `optax.multi_transform`: put `clip` before it in a chain; or put it first in each part and call
    `update(grads, state, params, all_updates=grads)`, which clips the whole tree in each part and takes the part's
    leaves from it.

    Raises `ValueError` for rules that would have to raise or, without `inner`, to skip, and where no state is given and
    one is needed; `TypeError` that names the leaf for integer gradients; `ValueError` for `shardings` beside
    `axis_name`, on explicit axes, on two meshes, or without one of the leaves. Source: that of the rule; the form is
    Optax's `clip_by_global_norm`.

    >>> tx = optax.chain(gradclip.optax.clip(gradclip.ClipGradByGlobalNorm(1.0)), optax.sgd(1.0))
    >>> params = {"w": jnp.zeros(2)}
    >>> updates, state = tx.update({"w": jnp.array([3.0, 4.0])}, tx.init(params), params)
    >>> updates["w"]
    Array([-0.6, -0.8], dtype=float32)
    >>> optax.tree.get(state, "last").norm_before
    Array(5., dtype=float32)
    """
    if inner is not None and not (callable(getattr(inner, "init", None)) and callable(getattr(inner, "update", None))):
        raise TypeError(f"inner is an optimizer of Optax, got {shown(inner)}: write inner=optax.adam(1e-3)")
    axes = _axes_of(axis_name)
    need_clip = checked_need_clip(need_clip)
    tensors = checked_flag(tensors, "tensors")
    door = Door(rule, inner, on_nonfinite, need_clip, axes, checked_shardings(shardings, axes), tensors)
    return optax.GradientTransformationExtraArgs(door.init, door.update)


def _axes_of(name: object) -> tuple[str, ...]:
    """The names of axes that gradients are sharded over."""
    names = () if name is None else tuple(name) if isinstance(name, tuple | list) else (name,)
    if not all(isinstance(one, str) and one for one in names):
        raise TypeError(f"axis_name is the name of an axis, or several, got {shown(name)}: write axis_name='data'")
    return names


class Door:
    """The two functions of the transformation."""

    def __init__(
        self,
        rule: AnyRule,
        inner: optax.GradientTransformation | None,
        on_nonfinite: str,
        need_clip: NeedClip | None,
        axes: tuple[str, ...],
        said: Said | None,
        tensors: bool,
    ) -> None:
        clipper = Clipper(rule, on_nonfinite=on_nonfinite)
        _refuse_host(clipper, inner)
        _refuse_denormal(rule)
        self._line = clipper.line
        self._new_clipper = partial(Clipper, rule, on_nonfinite=on_nonfinite)
        self._can_skip = clipper.can_skip
        self._inner = None if inner is None else optax.with_extra_args_support(inner)
        self._need_clip, self._axes, self._said = need_clip, axes, said
        self._needs_state = need_of_state(rule, inner)
        self._carries = isinstance(rule, Carry)
        singles = rules_in(rule)
        self._remembers = self._carries or any(single.threshold.adapts for single in singles)
        self._reads_weights = any(single.threshold.reads_weights for single in singles)
        self._shares_nothing = not any(isinstance(single.scope, Global | Group) for single in singles)
        self._tensors = tensors
        self._of_each_leaf = (
            self._carries
            or tensors
            or self._reads_weights
            or any(single.threshold.adapts and not isinstance(single.scope, Global) for single in singles)
        )
        self._reads_given, self._reads_moments = clipper.reads_given, clipper.reads_moments

    def init(self, params: Tree) -> ClipState:
        """The state before the first step; what is remembered begins as zeros, and is not computed for that."""
        inner = () if self._inner is None else self._inner.init(params)
        state = begun(inner)
        if not self._remembers and not self._tensors:
            return state
        nan = dict.fromkeys(self._reads_given, jnp.nan)

        def first(params: Tree) -> ClipState:
            zeros = zeros_like(params)
            return self._clipped(zeros, state, params, (), nan, zeros)[1]

        with mesh_in_force(jax.tree.leaves(params)):
            seen = jax.eval_shape(first, params)
            thresholds, tensors = jax.tree.map(zeros_of, (seen.thresholds, seen.tensors))
        leaves = {name_of(path): leaf for path, leaf in chosen_leaves(params, self._need_clip).items()}
        carried = {name: jnp.zeros_like(leaves[name], rest.dtype) for name, rest in seen.carried.items()}
        return state._replace(thresholds=thresholds, carried=carried, tensors=tensors)

    def update(
        self,
        updates: Tree,
        state: ClipState | optax.EmptyState | None,
        params: Tree = None,
        *,
        all_updates: Tree = None,
        **extra: Any,
    ) -> tuple[Tree, ClipState]:
        """Clip `updates`, or `all_updates`, of which they are a part; then the wrapped optimizer steps, if any."""
        state = given_state(state, self._needs_state)
        if all_updates is None or self._shares_nothing:
            tree, all_updates = updates, None
        elif self._of_each_leaf:
            raise ValueError(
                f"{self._line.rule!r}: a part of multi_transform has not what this rule reads or keeps of each leaf of "
                "all_updates: put clip before multi_transform, optax.chain(clip(rule), optax.multi_transform(...))"
            )
        else:
            tree = all_updates
        clipped, after = self._clipped(tree, state, params, self._axes, self._given(extra), extra.get("moments"))
        if all_updates is not None:
            clipped = leaves_from(updates, clipped)
        if self._inner is None:
            return clipped, after
        stepped, inner = self._inner.update(clipped, state.inner, params, **extra)
        if self._can_skip:
            skipped = after.last.skipped
            stepped = jax.tree.map(lambda step: jnp.where(skipped, jnp.zeros_like(step), step), stepped)
            inner = jax.tree.map(lambda old, new: jnp.where(skipped, old, new), state.inner, inner)
        return stepped, after._replace(inner=inner)

    def _given(self, extra: Mapping[str, Any]) -> dict[str, Any]:
        """The numbers among the extra arguments that the rule reads; Optax calls the loss `value`."""
        named = {"loss": extra["value"], **extra} if "value" in extra else extra
        return {name: named[name] for name in self._reads_given & named.keys()}

    def _clipped(
        self,
        tree: Tree,
        state: ClipState,
        params: Tree,
        axes: tuple[str, ...],
        given: dict[str, Any],
        moments: Tree,
    ) -> tuple[Tree, ClipState]:
        """`tree` clipped, and the state after it."""
        leaves = chosen_leaves(tree, self._need_clip)
        if not leaves:
            return tree, state._replace(step=state.step + 1, last=nothing(float_type()))
        refuse_other_memory(state.thresholds, self._line, len(leaves))
        if state.carried and not self._carries:
            raise ValueError(
                f"this state is of another rule: it carries something over, and {self._line.rule!r} does not"
            )
        names = [name_of(path) for path in leaves]
        others = {
            "weights": beside(params, leaves) if self._reads_weights and params is not None else None,
            "moments": beside(moments, leaves, "moments") if self._reads_moments and moments is not None else None,
        }
        arrays = list(leaves.values())
        places = Places(arrays, names, None if self._said is None else said_of(self._said, leaves.items()))
        step = in_float64(partial(self._step, names, axes, float_type(), places))
        region = places.region(step, self._places_carried(names, places, state))
        with mesh_in_force(arrays):
            arrays, carried, after = region(arrays, others, given, state._replace(inner=()))
        skips = jnp.where(after.last.skipped, state.consecutive_skips + 1, 0).astype(jnp.int32)
        after = after._replace(inner=state.inner, carried=carried, consecutive_skips=skips)
        return replaced(tree, dict(zip(leaves, arrays, strict=True))), after

    def _places_carried(self, names: list[str], places: Places, state: ClipState) -> dict[str, Any]:
        """Where what is carried over lies: with the gradient that it is of."""
        before = {name: jax.typeof(rest).sharding for name, rest in state.carried.items()}
        return before | dict(zip(names, places.each, strict=True)) if self._carries else {}

    def _step(
        self,
        names: list[str],
        axes: tuple[str, ...],
        dtype: Any,
        places: Places,
        arrays: list[Array],
        others: dict[str, list[Array] | None],
        given: dict[str, Any],
        state: ClipState,
    ) -> tuple[list[Array], dict[str, Array], ClipState]:
        """The arrays clipped, what is carried over, and the state after it, the floats of its thresholds as `dtype`."""
        if not axes:
            refuse_mixed(arrays)
        across = across_axes(axes, arrays) if axes else None
        clipper = self._new_clipper()
        clipper.memory, clipper.tensors = memory_of(state), self._tensors
        slots = places.slots(arrays)
        weights, moments = others["weights"], others["moments"]
        weight_slots = None if weights is None else list(map(Slot, weights))
        gradients = Gradients(
            slots,
            names.__getitem__,
            weights=None if weight_slots is None else lambda: weight_slots,
            across=across,
            given={name: jnp.asarray(number, jnp.float64).reshape(1) for name, number in given.items()},
            moments=None if moments is None else lambda: moments,
            apart=any(map(on_mesh, arrays)),
        )
        result = clipper.clip_gradients(gradients, JAX)
        after = state_of(clipper.memory, last_of(result, across, dtype), dtype)
        if self._tensors:
            after = after._replace(tensors=tensors_of(result, across, dtype))
        return [slot.value for slot in slots], after.carried, after._replace(carried={})


def _refuse_host(clipper: Clipper, inner: optax.GradientTransformation | None) -> None:
    """Raise for what a compiled step cannot do."""
    if clipper.can_raise:
        raise ValueError(
            f"a compiled step cannot raise, as {clipper.rule!r} with on_nonfinite={clipper.on_nonfinite!r} asks: "
            "look at the state after the step, `state.last.nonfinite` and `state.last.clipped`, or skip the step with "
            'SkipStep() or on_nonfinite="skip"'
        )
    if clipper.can_skip and inner is None:
        raise ValueError(
            "a transformation alone cannot skip a step, because the optimizer after it would still move its moments: "
            "wrap the optimizer, clip(rule, inner=optax.adam(1e-3), ...), instead of chaining them"
        )


def _refuse_denormal(rule: AnyRule) -> None:
    """Raise `ValueError` for a threshold that XLA takes for zero: nothing would be below it."""
    for threshold in (single.threshold for single in rules_in(rule)):
        if isinstance(threshold, Constant | Bounds):
            bounds: tuple[Operand, Operand] = threshold.bounds(0)
            low, high = bounds
            if (limit := min(-low, high)) < SMALLEST:
                raise ValueError(f"a threshold of {limit:g} is zero to JAX: write one from {SMALLEST:.3g}")
