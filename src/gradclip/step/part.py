"""The parts of a step, one for each sweep: what was measured and decided there, and what can be read of that."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple

from gradclip.engines.base import Engine, Measure
from gradclip.rules.arrays import SCALARS, Array, Operand
from gradclip.rules.norm import RMS, Linf, Norm
from gradclip.rules.scope import Element, Global, Row, Scope, Tensor, rows_of
from gradclip.rules.segments import Segments, segment_names, segments
from gradclip.rules.sweep import Sweep
from gradclip.step.decide import Decision, Plan, norm_of, sides
from gradclip.step.memory import Owners

ALL = -1
"""Instead of the number of a pattern: all gradients."""

AS_MEASURED = Segments(0)
"""The segments of a stage that was measured at its own scope: no index is needed."""


class Part(NamedTuple):
    """One sweep over some of the gradients: what was measured and what was decided.

    `key` is the number of the phase and that of the pattern, `ALL` where there are no patterns. A part outlives its
    step, so it knows the names and shapes of the gradients and holds none of them. `owners` says for each stage whose
    its segments are, where its threshold remembers. `each` is the measure of each tensor, if it was asked for where the
    sweep needs that of all together. `indices` are the places of the gradients, None for all.
    """

    key: tuple[int, int]
    sweep: Sweep
    name: Callable[[int], str]
    shapes: Sequence[tuple[int, ...]]
    divisor: Operand
    measure: Measure
    plan: Plan
    segments: list[Segments]
    owners: Sequence[Owners] = ()
    each: Measure | None = None
    indices: list[int] | None = None

    @property
    def counts(self) -> Array:
        """The non-finite elements of each measured segment; at scope `Element` of each tensor."""
        counts = self.measure.nonfinite
        return sides(counts, self.measure.xp)[0] if self.sweep.elementwise else counts

    @property
    def finest(self) -> tuple[Scope, Measure]:
        """The finest scope that was measured, and its measure."""
        return (self.sweep.leaf, self.measure) if self.each is None else (Tensor(), self.each)


def changed(change: Callable[[Array], Array], value: Operand) -> Operand:
    """`change` of an array; a plain number, and what is not there, stays."""
    return value if value is None or isinstance(value, float | int) else change(value)


def with_arrays(part: Part, change: Callable[[Array], Array]) -> Part:
    """`part` with `change` of each array that a result reads of it, without the rest: the one list of these arrays."""
    new = partial(changed, change)

    def measured(measure: Measure) -> Measure:
        return Measure(new(measure.total), new(measure.nonfinite), measure.xp, new(measure.scale))

    decisions = [
        Decision(new(norm), new(threshold), new(coefficient), new(action), {})
        for norm, threshold, coefficient, action, _ in part.plan.decisions
    ]
    return part._replace(
        divisor=new(part.divisor),
        measure=measured(part.measure),
        plan=Plan(None, decisions),
        owners=(),
        each=None if part.each is None else measured(part.each),
    )


def opening(parts: Sequence[Part]) -> list[Part]:
    """The parts of the first phase, if they have segments."""
    return [
        part
        for part in parts
        if part.key[0] == 0 and (part.indices != [] or any(isinstance(s.scope, Global) for s in part.sweep.stages))
    ]


def closing(parts: Sequence[Part]) -> list[tuple[Part, int]]:
    """The last stages that measure a norm of the first ones, each with its part: those of all or of each pattern."""
    latest: dict[int, list[tuple[Part, int]]] = {}
    first = {(part.sweep.elementwise, part.sweep.norm) for part in opening(parts)}
    for (_, pattern), alike in groupby(parts, key=attrgetter("key")):
        found = []
        for part in alike:
            same = [i for i, stage in enumerate(part.sweep.stages) if (part.sweep.elementwise, stage.norm) in first]
            found += [(part, same[-1])] if same else []
        if found:
            latest = {} if pattern == ALL else latest
            latest[pattern] = found
    return [pair for found in latest.values() for pair in found]


def actions_of(part: Part, engine: Engine) -> set[float]:
    """The actions that the stages of a part decided on."""
    return {action for decision in part.plan.decisions for action in engine.to_host(decision.action)}


def places_in(part: Part, count: int) -> list[int]:
    """The tensor that each of `count` measured segments is of; nothing where a segment is of several tensors."""
    leaf, _ = part.finest
    if isinstance(leaf, Row):
        return [index for index, shape in enumerate(part.shapes) for _ in range(rows_of(shape))]
    width = 2 if isinstance(leaf, Element) else 1
    return [index // width for index in range(count)] if isinstance(leaf, Element | Tensor) else []


def norms_in(part: Part, to_host: Callable[[Array], list[float]]) -> list[tuple[str, float]]:
    """The name of each measured tensor and its norm; the largest magnitude where elements were measured."""
    rule, elementwise, (leaf, measure) = part.sweep.stages[0], part.sweep.elementwise, part.finest
    sizes = segments(leaf, leaf, part.shapes, None, sized=True).sizes if isinstance(rule.norm, RMS) else ()
    found = to_host((measure.total if elementwise else norm_of(measure, rule, sizes)) / part.divisor)
    if isinstance(leaf, Tensor):
        return list(zip(map(part.name, range(len(found))), found, strict=True))
    segments_of: dict[int, list[int]] = {}
    for index, place in enumerate(places_in(part, len(found))):
        segments_of.setdefault(place, []).append(index)
    norm = Linf() if elementwise else rule.norm
    return [
        (part.name(place), joined([found[i] for i in of], [sizes[i] for i in of] if sizes else [], norm))
        for place, of in segments_of.items()
    ]


def names_in(part: Part, scope: Scope, count: int) -> list[str]:
    """The names of the `count` segments of a part at `scope`."""
    if isinstance(scope, Element):
        return [f"{part.name(index // 2)} {('above 0', 'below 0')[index % 2]}" for index in range(count)]
    return segment_names(scope, part.name, part.shapes, count)


def joined(norms: Sequence[float], sizes: Sequence[int], norm: Norm) -> float:
    """The norm of the whole from the norms of its parts, without leaving the range of a float on the way."""
    if math.isnan(sum(norms)):
        return math.nan
    peak = max(norms, default=0.0)
    if norm.combine == "max" or peak in (0.0, math.inf) or len(norms) == 1:
        return peak
    if isinstance(norm, RMS):
        return peak * math.sqrt(sum((n / peak) ** 2 * size for n, size in zip(norms, sizes, strict=True)) / sum(sizes))
    if norm.p == 2.0:
        return math.hypot(*norms)
    units: Operand = SCALARS.power(math.fsum((n / peak) ** norm.p for n in norms), 1 / norm.p)
    return peak * float(units)
