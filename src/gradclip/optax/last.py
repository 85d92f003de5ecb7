"""What the last step did, as arrays: the fields of `gradclip.step.result.Result` inside a compiled program."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike

from gradclip.engines.base import Across
from gradclip.engines.jax_numbers import power
from gradclip.rules.arrays import Operand
from gradclip.rules.norm import RMS, Linf
from gradclip.rules.response import SCALE, SKIP, ZERO
from gradclip.step.part import Part, closing, opening
from gradclip.step.result import Result


class Last(NamedTuple):
    """What the last step did; each field is an array without axes that a compiled program may use.

    `norm_before` is over everything that the first stage of the rule measured, `norm_after` the same norm after the
    last stage that measures it (0 where the step was skipped), both in the unit of the gradient. `threshold` and
    `coefficient` are those of the segment that was clipped hardest, `clipped` says whether any gradient was changed,
    `nonfinite` (int32) counts the tensors or rows with a non-finite element, and `skipped` says whether the step was
    left out.

    The floats are float32 (float64 under `jax_enable_x64`), and while the gradients are finite, so are they. Where
    there is no threshold, `threshold` is the largest number of its type. A norm that float32 cannot hold, as of two
    elements of 3e38, is its largest number, 3.4e38, times `excess_before` (or `excess_after`), which is 1 otherwise.
    `event_of` makes an infinite threshold and the true norms of them.
    """

    norm_before: Array
    norm_after: Array
    threshold: Array
    coefficient: Array
    clipped: Array
    nonfinite: Array
    skipped: Array
    excess_before: Array | np.floating = np.float32(1.0)
    excess_after: Array | np.floating = np.float32(1.0)


class Stage(NamedTuple):
    """One stage of a part: what it decided for each of its G segments, and their sizes."""

    part: Part
    norm: Array
    threshold: Array
    coefficient: Array
    action: Array
    sizes: Array


def nothing(dtype: DTypeLike) -> Last:
    """What stands in a state before the first step, and after one in which no rule met a gradient."""
    return _typed(0.0, 0.0, largest(dtype), 1.0, False, 0, False, dtype)


def largest(dtype: DTypeLike) -> float:
    """The largest number of a type: where there is no threshold, and where a norm is larger."""
    return float(np.finfo(dtype).max)


def last_of(result: Result, across: Across | None, dtype: DTypeLike) -> Last:
    """The arrays of `result`, alike on all devices that `across` sums over; the floats as `dtype`."""
    if not result.parts:
        return nothing(dtype)
    stages = [stage for part in result.parts for stage in _stages(part, across)]
    threshold, coefficient, action = (
        jnp.concatenate([getattr(stage, name) for stage in stages]) for name in ("threshold", "coefficient", "action")
    )
    if not len(coefficient):  # rows of which there are none
        return nothing(dtype)
    hardest, skipped = _first_smallest(coefficient), jnp.any(action == SKIP)
    first, final = opening(result.parts), closing(result.parts)
    heads = [_stages(part, across)[0] for part in first]
    tails = [_stages(part, across)[stage] for part, stage in final]
    return _typed(
        _overall(heads, [stage.norm for stage in heads]),
        jnp.where(skipped, 0.0, _overall(tails, [_after(stage) for stage in tails])),
        threshold[hardest],
        coefficient[hardest],
        ~skipped & jnp.any((action == SCALE) | (action == ZERO)),
        _nonfinite(result.parts, across),
        skipped,
        dtype,
    )


def _first_smallest(values: Array) -> Array:
    """The place of the smallest value; `argmin` of float64 cannot be compiled where JAX is limited to 32 bits."""
    places = jnp.arange(len(values), dtype=jnp.int32)
    return jnp.min(jnp.where(values == jnp.min(values), places, len(values) - 1))


def _typed(
    before: Operand,
    after: Operand,
    threshold: Operand,
    coefficient: Operand,
    clipped: Operand,
    nonfinite: Operand,
    skipped: Operand,
    dtype: DTypeLike,
) -> Last:
    """The numbers of a step in the types of a state."""
    (norm_before, excess_before), (norm_after, excess_after) = (_split(norm, dtype) for norm in (before, after))
    most = largest(dtype)
    return Last(
        norm_before=norm_before,
        norm_after=norm_after,
        threshold=jnp.clip(threshold, -most, most).astype(dtype),
        coefficient=jnp.minimum(jnp.asarray(coefficient), most).astype(dtype),
        clipped=jnp.asarray(clipped).astype(jnp.bool_),
        nonfinite=jnp.asarray(nonfinite).astype(jnp.int32),
        skipped=jnp.asarray(skipped).astype(jnp.bool_),
        excess_before=excess_before,
        excess_after=excess_after,
    )


def _split(norm: Operand, dtype: DTypeLike) -> tuple[Array, Array]:
    """Two numbers of `dtype` whose product is `norm`, of which the second is 1 where the first can be it."""
    norm, most = jnp.asarray(norm), largest(dtype)
    beyond = jnp.isfinite(norm) & (norm > most)
    return (
        jnp.where(beyond, most, norm).astype(dtype),
        jnp.where(beyond, norm / most, 1.0).astype(dtype),
    )


def _stages(part: Part, across: Across | None) -> list[Stage]:
    """The stages of a part; by value each device decides for what it has, so here the hardest decision counts."""
    found = []
    for decision, segments in zip(part.plan.decisions, part.segments, strict=True):
        decided: tuple[Operand, ...] = decision
        if across is not None and part.sweep.elementwise:
            decided = decision._replace(
                norm=across.shards(decision.norm, "max"),
                coefficient=-across.shards(-decision.coefficient, "max"),
                action=across.shards(decision.action, "max"),
            )
        norm, threshold, coefficient, action, _ = decided
        sizes = jnp.asarray(segments.sizes, float) if segments.sizes else jnp.ones_like(norm)
        found.append(Stage(part, norm, jnp.broadcast_to(threshold, norm.shape), coefficient, action, sizes))
    return found


def _after(stage: Stage) -> Array:
    """The norms after the coefficients; 0 times infinity is zeros that were written."""
    return jnp.where(stage.coefficient == 0.0, 0.0, stage.norm * stage.coefficient)


def _overall(stages: list[Stage], norms: list[Array]) -> Array:
    """The norm of the whole from those of its segments, without leaving float64 on the way; see `Result`."""
    if not stages:
        return jnp.zeros(())
    values, sizes = jnp.concatenate(norms), jnp.concatenate([stage.sizes for stage in stages])
    kinds = {stage.part.sweep.stages[0].norm for stage in stages}
    norm = kinds.pop() if len(kinds) == 1 else Linf()
    peak = jnp.max(values)
    if norm.combine == "max" or len(values) == 1:
        return peak
    safe = jnp.where((peak > 0) & jnp.isfinite(peak), peak, 1.0)
    weights: Array | float = sizes / jnp.sum(sizes) if isinstance(norm, RMS) else 1.0
    return safe * power(jnp.sum(power(values / safe, norm.p) * weights), 1.0 / norm.p)


def _nonfinite(parts: list[Part], across: Across | None) -> Array:
    """The non-finite tensors (or rows) of the phase that has most of them."""
    phases: dict[int, Array] = {}
    for part in parts:
        count: Operand = part.measure.nonfinite
        count = count if across is None else across.shards(count, "sum")
        phases[part.key[0]] = phases.get(part.key[0], 0.0) + jnp.sum(count)
    return jnp.max(jnp.stack(list(phases.values())))
