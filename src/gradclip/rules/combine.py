"""Thresholds made from others: relative to the weights, the smaller or larger of several, one after another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from gradclip.errors import shown
from gradclip.rules.arguments import checked_factor, checked_least, is_part, is_whole, keep
from gradclip.rules.arrays import SCALARS, Array, ArrayFunctions
from gradclip.rules.threshold import Bounds, Constant, Limit, Observed, Schedule, SecondMoment, State, Step, Threshold

CLOSED = 2.0**-1000
"""A threshold that no gradient passes; 0 would be none."""


@dataclass(frozen=True)
class WeightRatio(Threshold):
    """A share of the norm of the weights over the same segment: `ratio max(||w||, floor)`.

    `ratio` is a number above 0 or a `Schedule`. Without a floor a segment whose weights are all zero is not clipped.

    >>> Rule(Row(), threshold=WeightRatio(0.01, floor=1e-3)) == AGC(0.01)
    True
    """

    ratio: float | Schedule
    floor: float = 0.0

    adapts: ClassVar[bool] = True
    reads_weights: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not isinstance(self.ratio, Schedule):
            keep(self, "ratio", checked_factor(self.ratio, "the ratio to the weights", "0.01"))
        keep(self, "floor", checked_least(self.floor, "floor", "1e-3"))
        object.__setattr__(self, "reads_step", isinstance(self.ratio, Schedule) and self.ratio.reads_step)

    def at(self, observed: Observed, state: State) -> tuple[Array, State]:
        ratio = self.ratio.value(observed.step, observed.xp) if isinstance(self.ratio, Schedule) else self.ratio
        return ratio * observed.xp.maximum(observed.weights, self.floor), state

    def memory_rows(self) -> dict[str, int]:
        return {}

    def __str__(self) -> str:
        ratio = self.ratio if isinstance(self.ratio, Schedule) else f"{self.ratio:g}"
        return f"{ratio} of that of the weights" + (f" ({self.floor:g} at least)" if self.floor else "")


@dataclass(frozen=True)
class Combined(Threshold):
    """Base of what is made of other thresholds: each keeps a memory of its own under its number."""

    parts: tuple[Threshold, ...]

    def __post_init__(self) -> None:
        parts = _thresholds(*self.parts)
        if not parts:
            raise ValueError(f"{type(self).__name__} needs at least one threshold")
        if any(isinstance(part, SecondMoment) for part in parts):
            raise ValueError("SecondMoment() stands alone, in units of its own: chain a second rule with >> instead")
        object.__setattr__(self, "parts", parts)
        for flag in ("adapts", "reads_weights", "keeps_rows", "reads_step"):
            object.__setattr__(self, flag, any(getattr(part, flag) for part in parts))
        object.__setattr__(self, "reads_given", frozenset().union(*(part.reads_given for part in parts)))

    def at(self, observed: Observed, state: State) -> tuple[Array, State]:
        limits: list[Array] = []
        memory: dict[str, Array] = {}
        for number, part in enumerate(self.parts):
            limit, after = part.at(self._seen(observed, limits), _part_of(state, number))
            limits.append(limit)
            memory |= {f"{number}.{name}": value for name, value in after.items()}
        return self.combined(limits, observed.step, observed.xp), memory

    def value(self, step: Step, xp: ArrayFunctions = SCALARS) -> Array:
        return self.combined([part.value(step, xp) for part in self.parts], step, xp)

    def memory_rows(self) -> dict[str, int] | None:
        each = [part.memory_rows() for part in self.parts]
        if any(rows is None for rows in each):
            return None
        return {f"{number}.{name}": n for number, rows in enumerate(each) for name, n in (rows or {}).items()}

    def kind_of_memory(self) -> object:
        return None if self.memory_rows() is None else [part.kind_of_memory() for part in self.parts]

    def combined(self, limits: Sequence[Array], step: Step, xp: ArrayFunctions) -> Array:
        """One threshold from those of the parts."""
        raise NotImplementedError

    def _seen(self, observed: Observed, limits: Sequence[Array]) -> Observed:
        return observed


@dataclass(frozen=True)
class Least(Combined):
    """The smallest of several thresholds: `min_of(1.0, History(...))`. Each knows those before it as its ceiling."""

    def combined(self, limits: Sequence[Array], step: Step, xp: ArrayFunctions) -> Array:
        return _chosen(limits, xp, least=True)

    def _seen(self, observed: Observed, limits: Sequence[Array]) -> Observed:
        return observed._replace(ceiling=_chosen([observed.ceiling, *limits], observed.xp, least=True))

    def __str__(self) -> str:
        return f"the smallest of {_listed(self.parts)}"


@dataclass(frozen=True)
class Largest(Combined):
    """The largest of several thresholds: `max_of(0.1, History(...))`."""

    def combined(self, limits: Sequence[Array], step: Step, xp: ArrayFunctions) -> Array:
        return _chosen(limits, xp, least=False)

    def __str__(self) -> str:
        return f"the largest of {_listed(self.parts)}"


@dataclass(frozen=True)
class Switched(Combined):
    """The first of two thresholds for the first `steps` steps, the second after them. Both learn always."""

    steps: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not is_whole(self.steps, 1) or len(self.parts) != 2:
            raise ValueError(
                f"until takes a whole number of steps from 1, got {shown(self.steps)}: until(9, 1.0, None)"
            )
        object.__setattr__(self, "reads_step", True)

    def combined(self, limits: Sequence[Array], step: Step, xp: ArrayFunctions) -> Array:
        return limits[step >= self.steps] if isinstance(step, int) else xp.where(step < self.steps, *limits)

    def __str__(self) -> str:
        first, then = ("none" if str(part) == "inf" else str(part) for part in self.parts)
        return f"{first} in the first {self.steps} steps and {then} after them"


@dataclass(frozen=True)
class Given(Threshold):
    """No gradient passes while a number that the caller gives, like the loss, lies above a threshold of its own.

    The number is given before the step, `clipper.give(loss=loss)`; it may be negative. A non-finite one is neither
    compared nor learnt.

    >>> print(Given(History(Window(128), Sigma(6.0)), "loss"))
    0 while the loss is above the mean + 6 standard deviations of the last 128 norms
    """

    threshold: Threshold
    name: str = "loss"

    adapts: ClassVar[bool] = True

    def __post_init__(self) -> None:
        threshold = self.threshold
        if not is_part(threshold, Threshold):
            raise TypeError(
                f"Given takes a threshold, got {shown(threshold)}: write Given(History(Window(128), Sigma(6.0)))"
            )
        if threshold.reads_weights or threshold.reads_given or isinstance(threshold, SecondMoment | Bounds):
            raise ValueError(
                f"Given compares one number with one threshold of it, got {shown(threshold)}, which is one for "
                "gradients: write Given(History(Window(128), Sigma(6.0)))"
            )
        if not isinstance(self.name, str) or not self.name:
            raise TypeError(f"the name of a given number is a word such as 'loss', got {shown(self.name)}")
        keep(self, "name", str(self.name))
        object.__setattr__(self, "reads_given", frozenset({self.name}))
        for flag in ("keeps_rows", "reads_step"):
            object.__setattr__(self, flag, getattr(self.threshold, flag))

    def at(self, observed: Observed, state: State) -> tuple[Array, State]:
        xp = observed.xp
        # one number for each segment, as the memory has them
        number = observed.given[self.name] + 0.0 * xp.where(observed.learns, observed.norm, 0.0)
        finite = xp.where(xp.nonfinite(number), False, number == number)
        limit, after = self.threshold.at(observed._replace(norm=number, learns=finite, ceiling=math.inf), state)
        spike = xp.where(finite, number > limit, False)
        closed = 0.0 * xp.where(finite, number, 0.0) + CLOSED
        return xp.where(spike, closed, math.inf), after

    def __str__(self) -> str:
        return f"0 while the {self.name} is above {self.threshold}"


RATE = "rate"
"""What a gradient of norm 1 moves the parameters by, its echoes in the momentum included: by this name it is given."""


@dataclass(frozen=True)
class StepLength(Threshold):
    """The norm of a gradient that moves the parameters by `length`, its echoes in the momentum included:
    `length / rate`, with `rate = lr / (1 - momentum)` of SGD, times what dampening leaves of a gradient.

    `length` has the unit of the parameters. So the threshold follows the learning rate: it rises as a schedule lowers
    that, and what was right at one rate is right at three times as much. A clipper that knows its optimizer reads the
    rate of SGD at each step, the largest of all groups that train; to others it is given,
    `clipper.give(rate=0.1 / (1 - 0.9))`. Not for Adam, the length of whose steps does not follow the gradient.

    The echoes are taken at the rate of the step. Where that rises by d a step they are longer, by up to
    `d momentum / ((1 - momentum) rate)` of the length: with a momentum of 0.9 step t of a warm-up from 0 moves up to
    `1 + 9 / t` lengths, and one from a thousandth of the rate in a hundred steps 91 at its first. At a rate of 0 in all
    groups a gradient has echoes alone, and is clipped for the largest rate that the optimizer or its schedule names. A
    rate that is given as 0 moves nothing, and has no threshold; NaN has none either.

    >>> Rule(threshold=StepLength(1.0))
    all tensors together: an L2 norm above that of a step of length 1 is rescaled to it
    """

    length: float

    adapts: ClassVar[bool] = True
    reads_step: ClassVar[bool] = False
    reads_given: ClassVar[frozenset[str]] = frozenset({RATE})

    def __post_init__(self) -> None:
        keep(self, "length", checked_factor(self.length, "the length of a step", "1.0"))

    def at(self, observed: Observed, state: State) -> tuple[Array, State]:
        xp = observed.xp
        # one number for each segment
        rate = observed.given[RATE] + 0.0 * xp.where(observed.learns, observed.norm, 0.0)
        size = xp.maximum(rate, -rate)
        return xp.where(size > 0.0, self.length / xp.where(size > 0.0, size, 1.0), math.inf), state

    def memory_rows(self) -> dict[str, int]:
        return {}

    def __str__(self) -> str:
        return f"that of a step of length {self.length:g}"


def min_of(*thresholds: Limit) -> Threshold:
    """The smallest of several thresholds; numbers are constants, and `feed="clipped"` knows those before it.

    >>> min_of(1.0, Schedule((0, 2.0), (10, 0.5))).value(10)
    0.5
    """
    return Least(_thresholds(*thresholds))


def max_of(*thresholds: Limit) -> Threshold:
    """The largest of several thresholds; numbers are constants.

    >>> max_of(1.0, Schedule((0, 2.0), (10, 0.5))).value(10)
    1.0
    """
    return Largest(_thresholds(*thresholds))


def until(steps: int, first: Limit, then: Limit) -> Threshold:
    """The threshold `first` for the first `steps` steps, `then` after them; numbers are constants, `None` is none.

    >>> until(100, 1.0, None).value(99), until(100, 1.0, None).value(100)
    (1.0, inf)
    """
    return Switched(_thresholds(first, then), steps)


def _thresholds(*limits: Limit) -> tuple[Threshold, ...]:
    """Numbers as constants."""
    for limit in limits:
        if type(limit) is Threshold:
            raise TypeError(f"{limit!r} is what thresholds derive from: write Constant(1.0) or History(...)")
    return tuple(limit if isinstance(limit, Threshold) else Constant(limit) for limit in limits)


def _chosen(limits: Sequence[Array], xp: ArrayFunctions, *, least: bool) -> Array:
    chosen = limits[0]
    for limit in limits[1:]:
        numbers = isinstance(limit, float) and isinstance(chosen, float)
        where = SCALARS.where if numbers else xp.where
        chosen = where(limit < chosen if least else limit > chosen, limit, chosen)
    return chosen


def _part_of(state: State, number: int) -> State:
    """The memory of the part with this number."""
    prefix = f"{number}."
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _listed(parts: Sequence[Threshold]) -> str:
    *first, last = map(str, parts)
    return f"{', '.join(first)} and {last}" if first else last
