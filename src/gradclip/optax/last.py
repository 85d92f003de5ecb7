"""What the last step did, as arrays: the fields of `gradclip.step.result.Result` inside a compiled program."""

from __future__ import annotations

from collections.abc import Callable
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
from gradclip.rules.scope import Element, Tensor
from gradclip.rules.segments import segments as segments_of
from gradclip.step.decide import combined, norm_of, sides, summed_up
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

    >>> tx = gradclip.optax.clip(gradclip.ClipGradByGlobalNorm(1.0))
    >>> gradients = {"w": jnp.array([3.0, 4.0])}
    >>> updates, state = tx.update(gradients, tx.init(gradients))
    >>> float(state.last.norm_before), float(state.last.norm_after), bool(state.last.clipped)
    (5.0, 1.0, True)
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
    """One stage of a part: what it decided for each of its G segments, their sizes, and their places."""

    part: Part
    norm: Array
    threshold: Array
    coefficient: Array
    action: Array
    sizes: Array
    place: Array | np.ndarray


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
    found = {id(part): _stages(part, across) for part in result.parts}
    every = _beside([stage for stages in found.values() for stage in stages])
    if not every:  # rows of which there are none
        return nothing(dtype)
    threshold, coefficient = _hardest(every)
    skipped, scaled, zeroed = (over_all(jnp.any, [s.action == action for s in every]) for action in (SKIP, SCALE, ZERO))
    after = _overall([found[id(part)][stage] for part, stage in closing(result.parts)], after=True)
    return _typed(
        _overall([found[id(part)][0] for part in opening(result.parts)]),
        jnp.where(skipped, 0.0, after),
        threshold,
        coefficient,
        ~skipped & (scaled | zeroed),
        _nonfinite(result.parts, across),
        skipped,
        dtype,
    )


def tensors_of(result: Result, across: Across | None, dtype: DTypeLike) -> dict[str, Array]:
    """The norm of each tensor before clipping, by name, as `dtype`."""
    return {
        part.name(index): _split(norm, dtype)[0]
        for part in opening(result.parts)
        for index, norm in enumerate(_each(part, across))
    }


def _each(part: Part, across: Across | None) -> Array:
    """The norm [T] of each tensor of a part; the largest magnitude where elements were measured."""
    rule, (leaf, measure) = part.sweep.stages[0], part.finest
    across = None if across is None else across.only(part.indices)
    if isinstance(leaf, Element):
        norm: Operand = measure.xp.maximum(*sides(measure.total, measure.xp))
        return jnp.asarray((norm if across is None else across.shards(norm, "max")) / part.divisor)
    if across is not None:
        measure = summed_up(measure, rule, across.shards)
    whole = segments_of(Tensor(), leaf, part.shapes, None, sized=isinstance(rule.norm, RMS))
    return jnp.asarray(norm_of(combined(measure, rule, whole)[0], rule, whole.sizes) / part.divisor)


def _beside(stages: list[Stage]) -> list[Stage]:
    """The stages with one more axis, along which those of tensors of one shape lie side by side.

    So a few reductions read many of them; put behind one another, they would be gathered from the devices of a mesh.
    """
    alike: dict[object, list[Stage]] = {}
    start = 0
    for stage in stages:
        if count := len(stage.place):
            numbered = stage._replace(place=stage.place + np.int32(start))
            alike.setdefault(_kind(stage.part, count), []).append(numbered)
            start += count
    return [
        Stage(some[0].part, *map(jnp.stack, zip(*(stage[1:] for stage in some), strict=True)))
        for some in alike.values()
    ]


def _kind(part: Part, count: int) -> object:
    """What parts with as many segments, of tensors of the same shapes, have in common."""
    return count, tuple(map(tuple, part.shapes))


def over_all(reduce: Callable[[Array], Array], arrays: list[Array]) -> Array:
    """`reduce` over the elements of all these arrays."""
    return reduce(jnp.stack([reduce(array) for array in arrays]))


def _hardest(stages: list[Stage]) -> tuple[Array, Array]:
    """Threshold and coefficient of the first segment with the smallest coefficient.

    `argmin` of float64 cannot be compiled where JAX is limited to 32 bits, and to take an element out of an array that
    lies on several devices would gather it.
    """
    least, last = over_all(jnp.min, [s.coefficient for s in stages]), sum(s.norm.size for s in stages) - 1
    first = over_all(jnp.min, [jnp.where(s.coefficient == least, s.place, last) for s in stages])
    found = [stage.place == first for stage in stages]

    def there(values: list[Array]) -> Array:
        return over_all(jnp.sum, [jnp.where(at, value, 0.0) for at, value in zip(found, values, strict=True)])

    return there([stage.threshold for stage in stages]), there([stage.coefficient for stage in stages])


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
    if across is not None:
        across = across.only(part.indices)
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
        place = np.arange(len(norm), dtype=np.int32)
        found.append(Stage(part, norm, jnp.broadcast_to(threshold, norm.shape), coefficient, action, sizes, place))
    return found


def _overall(stages: list[Stage], after: bool = False) -> Array:
    """The norm of the whole from those of its segments, without leaving float64 on the way; see `Result`."""
    every = _beside(stages)
    if not every:
        return jnp.zeros(())
    norms = [_after(stage) if after else stage.norm for stage in every]
    kinds = {stage.part.sweep.stages[0].norm for stage in stages}
    norm = kinds.pop() if len(kinds) == 1 else Linf()
    lost = over_all(jnp.any, [jnp.isnan(each) for each in norms])  # a maximum over devices may lose it
    peak = jnp.where(lost, jnp.nan, over_all(jnp.max, norms))
    if norm.combine == "max" or sum(each.size for each in norms) == 1:
        return peak
    safe = jnp.where((peak > 0) & jnp.isfinite(peak), peak, 1.0)
    powers = [power(each / safe, norm.p) for each in norms]
    if isinstance(norm, RMS):
        size = over_all(jnp.sum, [stage.sizes for stage in every])
        powers = [each * (stage.sizes / size) for each, stage in zip(powers, every, strict=True)]
    return safe * power(over_all(jnp.sum, powers), 1.0 / norm.p)


def _after(stage: Stage) -> Array:
    """The norms after the coefficients; 0 times infinity is zeros that were written."""
    return jnp.where(stage.coefficient == 0.0, 0.0, stage.norm * stage.coefficient)


def _nonfinite(parts: list[Part], across: Across | None) -> Array:
    """The non-finite tensors (or rows) of the phase that has most of them; one that devices share counts once."""
    phases: dict[int, dict[object, list[Array]]] = {}
    for part in parts:
        count: Operand = part.measure.nonfinite
        if across is not None:
            shared: Operand = across.only(part.indices).shards(count, part.sweep.norm.combine)
            count = jnp.minimum(shared, 1.0)
        phases.setdefault(part.key[0], {}).setdefault(_kind(part, len(count)), []).append(count)
    counts = [over_all(jnp.sum, [jnp.stack(some) for some in alike.values()]) for alike in phases.values()]
    return jnp.max(jnp.stack(counts))
