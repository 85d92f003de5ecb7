"""Thresholds: the value that a measure is compared with, in the unit of the gradient.

A threshold is asked once a step for each stage of a rule. Most follow the step alone (`value`). One that adapts may
read the current norm, the norm of the weights and a memory of its own (`at`), and returns its value with its next
memory; it never changes anything itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple, TypeAlias

from gradclip.errors import shown
from gradclip.rules.arguments import is_whole, keep, real_number
from gradclip.rules.arrays import SCALARS, Array, ArrayFunctions, Operand

State: TypeAlias = Mapping[str, Array]
"""The memory of one threshold: arrays by name."""

Step: TypeAlias = int | Array
"""The number of a step; an array where the steps of a compiled program count themselves."""

Limit: TypeAlias = "Threshold | float | None"
"""What a threshold is written as: a number is a constant, None is none."""


class Observed(NamedTuple):
    """What a threshold may look at: `norm` [G], `step` from 0, `weights` [G] if it asked for them, `learns` [G].

    `step` is an int, or an array where the steps of a compiled program count themselves. `learns` is true where the
    norm is finite and not zero: only from such a segment may a memory learn. `given` has the numbers [1] that the
    caller gave beside the gradients, by name. `ceiling` is the least threshold that stands beside this one.
    """

    norm: Array
    step: Step
    weights: Array | None
    learns: Array
    xp: ArrayFunctions
    given: Mapping[str, Array] = {}
    ceiling: Array = math.inf


@dataclass(frozen=True)
class Threshold:
    """Base of the thresholds.

    `adapts` says that it is to be asked by `at` and not by `value`; `reads_weights` asks for the norms of the
    parameters over the same segments, `reads_given` for numbers of the caller; `keeps_rows` says that it remembers
    arrays of [n, G]; `reads_step` says that it may be another one at another step. Where they follow from the
    arguments, `__post_init__` sets them, because every step reads them.

    >>> Constant(1.0).adapts, WeightRatio(0.01).adapts, WeightRatio(0.01).reads_weights
    (False, True, True)
    """

    adapts: ClassVar[bool] = False
    reads_step: ClassVar[bool] = True
    reads_weights: ClassVar[bool] = False
    keeps_rows: ClassVar[bool] = False
    reads_given: ClassVar[frozenset[str]] = frozenset()

    def at(self, observed: Observed, state: State) -> tuple[Array, State]:
        """The threshold of this step, one number or [G], and the memory after it.

        The arrays of a memory have the segments on their last axis and begin as zeros; `state` is empty at first. A
        threshold that is not above 0 (or NaN) does not clip.
        """
        return self.value(observed.step, observed.xp), state

    def memory_rows(self) -> dict[str, int] | None:
        """The arrays of its memory by name, each with the n of [n, G], 0 where it is [G]; None if that is not said.

        Where it is said, a state is checked by it, and its numbers are finite and not below 0.
        """
        return None if self.adapts else {}

    def kind_of_memory(self) -> object:
        """What has to be equal where another threshold goes on with its memory; None where none does."""
        return self.memory_rows()

    def value(self, step: Step, xp: ArrayFunctions = SCALARS) -> Array:
        """The threshold of `step`, where it depends on nothing else; `xp` serves a step that is an array."""
        raise TypeError(f"{type(self).__name__} has no value before the gradients are measured")

    def bounds(self, step: Step, xp: ArrayFunctions = SCALARS) -> tuple[Array, Array]:
        """The interval [low, high] that scope `Element` clips to at `step`."""
        value = self.value(step, xp)
        return -value, value


@dataclass(frozen=True, init=False)
class Constant(Threshold):
    """One number above 0. `None` or infinity measures only: nothing is ever written.

    >>> Constant(None).limit, Constant(2).limit
    (inf, 2.0)
    >>> Constant(0)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: a threshold must be above 0, got 0.0: to drop the gradients call zero_grad(), ...
    """

    reads_step: ClassVar[bool] = False
    limit: float

    def __init__(self, limit: float | None) -> None:
        keep(self, "limit", checked_limit(limit, "a threshold"))

    def value(self, step: Step, xp: ArrayFunctions = SCALARS) -> float:
        return self.limit

    def __str__(self) -> str:
        return f"{self.limit:g}"


@dataclass(frozen=True)
class Bounds(Threshold):
    """The interval [min, max] around 0 that the value of an element is clipped to: `min < 0 < max`.

    >>> Rule(Element(), threshold=Bounds(1.0, -0.5))
    each element: a magnitude outside [-0.5, 1] is rescaled to it
    """

    reads_step: ClassVar[bool] = False
    max: float
    min: float

    def __post_init__(self) -> None:
        keep(self, "max", checked_limit(self.max, "max"))
        lowest = real_number(self.min)
        if lowest is None:
            raise TypeError(f"min must be a number below 0 or None, got {shown(self.min)}: None means -max")
        if not lowest < 0:
            raise ValueError(
                f"min must be below 0 < max, got min={lowest}: clipping to an interval without 0 inside would "
                "move small gradients away from 0; write min=None for -max"
            )
        keep(self, "min", lowest)

    def value(self, step: Step, xp: ArrayFunctions = SCALARS) -> Array:
        raise TypeError("Bounds(max, min) clips by value: give it to a rule with scope Element()")

    def bounds(self, step: Step, xp: ArrayFunctions = SCALARS) -> tuple[Array, Array]:
        return self.min, self.max

    def __str__(self) -> str:
        return f"[{self.min:g}, {self.max:g}]"


@dataclass(frozen=True)
class SecondMoment(Threshold):
    """For each element `sqrt(factor v)`, with v its second moment as the optimizer has it; none in the first steps.

    At scope `Element` alone. The results have the unit of this threshold, so that it is 1. An element whose v is 0 or
    not known yet is not clipped; in the first `warmup` steps, while v is far too small, none is.

    >>> Rule(Element(), threshold=SecondMoment(5000.0)) == SPAM(5000.0)
    True
    """

    factor: float = 5000.0
    warmup: int = 20

    def __post_init__(self) -> None:
        keep(self, "factor", checked_limit(self.factor, "the factor of the second moment"))
        if not is_whole(self.warmup, 0):
            raise ValueError(f"warmup is a whole number of steps from 0, got {shown(self.warmup)}: write 20")
        object.__setattr__(self, "reads_step", self.warmup > 0)

    def value(self, step: Step, xp: ArrayFunctions = SCALARS) -> Array:
        """1, because the elements are measured in units of it."""
        xp = SCALARS if isinstance(step, int) else xp
        return xp.where(step < self.warmup, math.inf, 1.0)

    def __str__(self) -> str:
        after = f" (after {self.warmup} steps)" if self.warmup else ""
        return f"the root of {self.factor:g} times its second moment{after}"


@dataclass(frozen=True, init=False)
class Schedule(Threshold):
    """A threshold that follows the step: points `(step, value)` joined by straight lines, or a function of the step.

    Before the first point and after the last the value stays. A function is called with the number of the step, from
    0, and must return a finite number above 0; it cannot be written by `to_dict`, points can. In a compiled program the
    step is an array: the function must be one of arrays there, and nobody looks at what it returns.

    >>> Schedule((0, 10.0), (1000, 1.0)).value(500)
    5.5
    """

    points: tuple[tuple[int, float], ...]
    function: Callable[[Operand], Array] | None = None

    def __init__(self, *points: Sequence[float] | Callable[[Operand], Array]) -> None:
        functions = [point for point in points if callable(point)]
        if (functions and len(points) > 1) or not points:
            raise TypeError("a Schedule takes points, Schedule((0, 10.0), (1000, 1.0)), or one function of the step")
        object.__setattr__(self, "function", functions[0] if functions else None)
        object.__setattr__(self, "points", () if functions else _checked_points(points))

    def value(self, step: Step, xp: ArrayFunctions = SCALARS) -> Array:
        on_host = isinstance(step, int)
        if self.function is not None:
            scheduled = self.function(step)
            return checked_limit(scheduled, f"the scheduled threshold at step {step}") if on_host else scheduled
        xp = SCALARS if on_host else xp
        # an array of whole numbers may refuse to be multiplied by a float
        exact: Operand = step.astype("float64") if hasattr(step, "astype") else step
        value: Array = self.points[-1][1]
        for (start, first), (stop, last) in reversed(list(pairwise(self.points))):
            value = xp.where(step < stop, first + (last - first) * (exact - start) / (stop - start), value)
        return xp.where(step > self.points[0][0], value, self.points[0][1])

    def __str__(self) -> str:
        if self.function is not None:
            return f"the schedule {getattr(self.function, '__name__', 'function')}(step)"
        return "a schedule " + " -> ".join(f"{value:g} at step {step}" for step, value in self.points)


def computed(number: Operand) -> Schedule:
    """The threshold that a compiled program computes, the same at every step of it."""

    def computed_threshold(step: Operand) -> Array:
        value: Array = number
        return value

    schedule = Schedule(computed_threshold)
    object.__setattr__(schedule, "reads_step", False)
    return schedule


def checked_limit(value: object, what: str) -> float:
    """`value` as a float above 0, infinity for `None`, or the error that says what to write instead.

    Numbers of Python and NumPy are taken, and arrays and tensors of one number without axes, which are read.
    """
    if value is None:
        return math.inf
    number = real_number(value)
    if number is None:
        raise TypeError(
            f"{what} must be a number above 0, got {shown(value)}: write 1.0, or None to measure only; "
            "one that a compiled program computes is written Schedule(lambda step: value)"
        )
    if math.isnan(number) or number <= 0:
        raise ValueError(f"{what} must be above 0, got {number}: {_instead(number)}")
    return number


def _instead(number: float) -> str:
    if number == 0:
        return "to drop the gradients call zero_grad(), to measure without clipping write None or float('inf')"
    if math.isnan(number):
        return "a comparison with NaN never clips; write a finite number, or None to measure only"
    return "a negative threshold would turn the gradients round; write its absolute value, or None to measure only"


def _is_step(value: object) -> bool:
    number = real_number(value)
    return number is not None and number.is_integer()


def _checked_points(points: Sequence[Any]) -> tuple[tuple[int, float], ...]:
    for point in points:
        if not isinstance(point, tuple | list) or len(point) != 2 or not _is_step(point[0]):
            raise TypeError(
                f"a Schedule takes points (step, value), or one function of the step, got {shown(point)}: write "
                "Schedule((0, 10.0), (1000, 1.0))"
            )
    pairs = tuple(
        (int(step), checked_limit(value, f"the scheduled threshold at step {step}")) for step, value in points
    )
    steps = [step for step, _ in pairs]
    if steps != sorted(set(steps)) or steps[0] < 0:
        raise ValueError(f"the steps of a Schedule start at 0 or later and rise, got {steps}")
    if len(pairs) > 1 and any(math.isinf(value) for _, value in pairs):
        raise ValueError("a Schedule cannot rise to infinity along a line: give finite values")
    return pairs
