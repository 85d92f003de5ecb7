"""Results that wait to be read: what they keep meanwhile, and how their numbers come to the host together."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

from gradclip.engines.base import Measure
from gradclip.rules.arrays import Array
from gradclip.step.decide import Plan
from gradclip.step.part import Part
from gradclip.step.result import Result


def light(result: Result) -> Result:
    """`result` with what can be read of it, and without the memory of the rule and what was only for writing."""
    return with_arrays(result, lambda array: array)


def on_host(results: Sequence[Result]) -> list[Result]:
    """The results with their numbers on the host; an engine that waits for a device moves them in one copy."""
    found: dict[int, Array] = {}
    far = [result for result in results if moves(result)]
    for result in far:
        with_arrays(result, lambda array: found.setdefault(id(array), array))
    if not found:
        return list(results)
    moved = dict(zip(found, far[0].source.on_host(list(found.values())), strict=True))
    return [with_arrays(result, lambda array: moved.get(id(array), array)) for result in results]


def moves(result: Result) -> bool:
    """Whether the numbers of a result lie on a device from which its engine moves many at once."""
    return result.source.waits and result.source.moves


def with_arrays(result: Result, given: Callable[[Array], Array]) -> Result:
    """A copy of `result` with other arrays for those that it reads; plain numbers stay."""

    def array(value: Array) -> Array:
        return value if value is None or isinstance(value, float | int) else given(value)

    def measure(measured: Measure) -> Measure:
        return measured._replace(
            total=array(measured.total), nonfinite=array(measured.nonfinite), scale=array(measured.scale)
        )

    def part(step_part: Part) -> Part:
        decisions = [
            decision._replace(
                norm=array(decision.norm),
                threshold=array(decision.threshold),
                coefficient=array(decision.coefficient),
                action=array(decision.action),
                state={},
            )
            for decision in step_part.plan.decisions
        ]
        return step_part._replace(
            measure=measure(step_part.measure),
            each=None if step_part.each is None else measure(step_part.each),
            divisor=array(step_part.divisor),
            plan=Plan(None, decisions),
            owners=(),
        )

    other = copy.copy(result)
    other.parts = list(map(part, result.parts))
    other.overflow, other.loss = array(result.overflow), array(result.loss)
    return other
