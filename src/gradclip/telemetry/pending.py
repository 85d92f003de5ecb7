"""Results that wait to be read: what they keep meanwhile, and how their numbers come to the host together."""

from __future__ import annotations

from collections.abc import Sequence

from gradclip.rules.arrays import Array
from gradclip.step.result import Result


def light(result: Result) -> Result:
    """`result` with what can be read of it, and without the memory of the rule and what was only for writing."""
    return result.with_arrays(lambda array: array)


def on_host(results: Sequence[Result]) -> list[Result]:
    """The results with their numbers on the host; an engine that waits for a device moves them in one copy."""
    found: dict[int, Array] = {}
    far = [result for result in results if moves(result)]
    for result in far:
        result.with_arrays(lambda array: found.setdefault(id(array), array))
    if not found:
        return list(results)
    moved = dict(zip(found, far[0].source.on_host(list(found.values())), strict=True))
    return [result.with_arrays(lambda array: moved.get(id(array), array)) for result in results]


def moves(result: Result) -> bool:
    """Whether the numbers of a result lie on a device from which its engine moves many at once."""
    return result.source.waits and result.source.moves
