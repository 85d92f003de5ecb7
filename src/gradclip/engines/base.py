"""What an engine is: the gradients of a step, measured and scaled in place.

An engine knows HOW: where the elements lie and how to read them fast. WHAT to clip is in `rules`, and the coefficient
is made in `decide`, so two engines can differ in speed and in nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol, TypeAlias

from gradclip.rules.arrays import SCALARS, Array, ArrayFunctions, Operand
from gradclip.rules.norm import Linf, Norm
from gradclip.rules.response import Rescale, Response
from gradclip.rules.scope import Axes, Element, Row, Scope, wrong_axes
from gradclip.rules.segments import Shape

Gradient: TypeAlias = Any
"""What an engine owns and gathers: a tensor of its framework, a NumPy array, or a `Slot`."""

Batch: TypeAlias = Any
"""What an engine gathers gradients to, of a class of its own."""


Kept: TypeAlias = tuple[int, ...]
"""Axes of a tensor that are neighbours, from the front: each of their indices together is a row."""

FIRST: Kept = (0,)

SAFE_TOTALS = (1e-280, 1e300)
"""Between these no sum of squares, or of magnitudes, has lost an element to the ends of float64."""
SAFE_NORMS = (1e-140, 1e150)
"""The same for norms of order 1 and 2."""
SMALLEST = 2.0**-1022
LARGEST = 2.0**1020
"""Scales of segments that are zero, which add 0 to others, and of those that are not finite, which speak for all."""
LEAST = math.ulp(0.0)
"""Instead of `SMALLEST` where denormal numbers are calculated with: as a scale it is right for them, too."""


class Measure(NamedTuple):
    """What an engine read, for each of S segments: the norm is `scale * total^(1/p)`, or `scale * total` for a maximum.

    `scale` is above 0 and has the unit of the stored gradient; engines move it away from 1 where the plain power sum
    would leave the range of its type, then to `SMALLEST` where a segment is zero and `LARGEST` where it is not finite.
    It is an array wherever a gradient is float64 and `combine` is "sum"; among processes that have other tensors,
    whose dtypes nobody here knows, `decide` takes it for one.

    `hard_clip` decides of this very measure what `decide` would for a threshold that is a number and the response
    `Rescale`, by an engine on which each operation of an array costs a launch. It takes the threshold, an array that
    norms are divided by or None, the action of the response, and coefficient and action of what is broken; it gives
    norm, coefficient and action.
    """

    total: Array
    nonfinite: Array
    xp: ArrayFunctions
    scale: Array = 1.0
    hard_clip: Callable[[float, Operand, int, float, int], tuple[Array, Array, Array]] | None = None


class Measured(NamedTuple):
    """What an engine measured of a batch, and how: what it takes to reduce it."""

    batch: Batch
    scope: Scope
    norm: Norm
    measure: Measure


def _all_count(array: Array) -> Array:
    return array


class Across(NamedTuple):
    """How measures are summed up over the processes (or devices) that share the gradients of a step.

    `shards` and `tensors` take an array and "sum" or "max". `shards` [T] is given one number for each tensor and adds
    what others measured of the same tensor; a tensor of which all have a copy is left as it is. `tensors` [1] is given
    what all tensors here sum up to, and adds the tensors that only others have; `counted` [T] puts 0 for those here
    that others count. All processes make the same calls in the same order.

    `together` makes the measure of all tensors of all processes of that of each here, where not all of these are spread
    over the same processes. `splits` says that one tensor may have parts in several, `others` that others may have
    tensors that are not here. `some` gives the same for the tensors at these places, where it is not the same for any.
    """

    shards: Callable[[Operand, str], Array]
    tensors: Callable[[Operand, str], Array]
    counted: Callable[[Operand], Array] = _all_count
    together: Callable[[Measure, Norm], Measure] | None = None
    splits: bool = True
    others: bool = True
    some: Callable[[list[int]], Across] | None = None

    def only(self, indices: list[int] | None) -> Across:
        """How to sum up for the tensors at `indices`; None for all."""
        return self if indices is None or self.some is None else self.some(indices)


class Slot:
    """A place for the gradient of a framework whose arrays cannot be written: engines put a new one in."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


class Values(Protocol):
    """Values of a framework, which are never written, for what has one number for each element of a gradient."""

    def wide(self, tensor: Gradient, index: int, /) -> Operand:
        """The value of a tensor that `gather` takes, in float32 or wider; None where this process has none of it.

        A sparse one raises `UnsupportedGradient`.
        """

    def tensor(self, value: Operand, like: Gradient, /) -> Gradient:
        """A new tensor, for `gather`, with this value, that stands for the tensor `like`."""

    def put_(self, tensor: Gradient, source: Gradient, /) -> None:
        """Write to `tensor` what the tensor `source` holds, as its dtype."""

    def zeros(self, value: Operand, /) -> Operand:
        """Zeros like `value`."""

    def beside(self, saved: Operand, value: Operand, /) -> Operand:
        """`saved`, which may come from a checkpoint, on the device of `value` and in its dtype."""

    def where(self, flag: Operand, then: Operand, other: Operand, /) -> Operand:
        """One of two values, by a flag of the engine, which may lie on a device, or by one flag for each element."""


class Tables(list[Any]):
    """What an engine keeps between the batches of one structure, such as tables of addresses; a copy begins empty."""

    def __init__(self) -> None:
        super().__init__()
        self._parts: dict[Hashable, Tables] = {}

    def part(self, key: Hashable) -> Tables:
        """What is kept for a part of the batches, such as the tensors of one device."""
        return self._parts.setdefault(key, Tables())

    def __deepcopy__(self, memo: Any) -> Tables:
        return Tables()

    def __reduce__(self) -> tuple[type[Tables], tuple[()]]:
        return Tables, ()


SPARSE = "it is sparse, and this rule has a number for each element of it: call .to_dense(), or take another rule"
SHARED = "a part of its memory is that of another gradient and would be scaled twice: assign a .clone() of it to .grad"
NO_FLOAT = "its dtype is {}; float16, bfloat16, float32, float64 and complex gradients clip: cast it, or leave it out"
NO_ORDER = "it is complex, and complex numbers have no order: clip it by a norm"


class UnsupportedGradient(TypeError):
    """A gradient that no engine can clip; `index` is its place in the list."""

    def __init__(self, index: int, reason: str) -> None:
        super().__init__(reason)
        self.index = index
        self.reason = reason


class Engine(Protocol):
    """Gather, measure, apply. The batch is the engine's own view of the tensors and lives for one step.

    An engine is a subclass: `class MyEngine(Engine)`. It sets `name`, `waits` and `values` and has every method;
    only those from `clamp_` on have a default, with the flag that says whether the engine does better. One that keeps
    to this protocol without being a subclass needs all of it, the defaults and flags too: nobody asks what is there.
    """

    name: str
    waits: bool
    """Whether reading a number of this engine waits for a device; if so, nothing but `to_host` may read one."""

    values: Values
    """The arithmetic of whole tensors, for rules that have a number for each element."""

    clamps: bool = False
    """Whether `clamp_` measures and clamps in one read."""

    moves: bool = False
    """Whether `on_host` moves many arrays in one copy."""

    reduces: bool = False
    """Whether `measure` is of a part of the gradients, which `reduce` makes the measure of the whole."""

    listeners: int = 0
    """Above 0 where another process may have telemetry, and above 1 where that wants the norm of each tensor."""

    xp: ArrayFunctions = SCALARS
    """The array functions that the bounds for `clamp_` are made with."""

    def owns(self, tensor: Gradient) -> bool:
        """Whether this engine can read and write `tensor`."""

    def gather(self, tensors: list[Gradient], tables: Tables | None = None) -> Batch:
        """The batch of `tensors`; raises `UnsupportedGradient` and writes nothing.

        In `tables`, which the layout of a step keeps, an engine finds what it left there when it met such tensors last.
        """

    def repeated(self, batch: Batch) -> set[int]:
        """The places of tensors whose memory an earlier one of the batch has.

        Raises `UnsupportedGradient` where two have a part of it together; see `overlap.repeats`.
        """

    def refuse_unordered(self, batch: Batch) -> None:
        """Raise `UnsupportedGradient` for a complex tensor, whose elements have no sign and no bound."""

    def measure(self, batch: Batch, scope: Scope, norm: Norm) -> Measure:
        """One read: the measure of each segment of `scope` (`Element`: see `scope.Element`)."""

    def apply_(
        self, batch: Batch, scope: Scope, coefficient: Operand, zeroes: bool = True, enlarges: bool = True
    ) -> None:
        """Multiply each segment by its coefficient, in place; where it is 1 nothing is written, where 0, zeros are.

        `zeroes` is false where no coefficient can be 0, `enlarges` where none can be above 1. An engine that waits may
        multiply by 1.
        """

    def map_(self, batch: Batch, response: Response, low: Operand, high: Operand) -> None:
        """Replace each finite element x by `phi(|x| / t) x`, with t = `high` for x > 0 and -`low` for x < 0.

        Both are one number, or an array [T] with one for each tensor.
        """

    def zero_nonfinite_(self, batch: Batch) -> None:
        """Replace each non-finite element by zero."""

    def unit_axis(self, shape: Shape) -> Axes:
        """The axis of the output units in a weight of `shape` (two axes or more), as the framework's layers have it.

        Several where each index of all of them is a unit, and () where the whole weight is one.
        """

    def shapes(self, batch: Batch, scope: Scope) -> list[Shape]:
        """The shapes of the tensors as measured: of a sparse one, that of its values. The number of rows comes first.

        Raises `UnsupportedGradient` for a tensor that has not the axis of `Row`.
        """

    def holds_float64(self, batch: Batch) -> bool:
        """Whether any tensor has elements (or parts of complex ones) of 64 bits."""

    def to_host(self, array: Operand) -> list[float]:
        """The numbers of `array`; on an accelerator this waits for the device."""

    def reduce(self, measured: Sequence[Measured]) -> list[Measure]:
        """The measures of all processes that share the gradients; all of them call it alike, and get the same."""
        return [part.measure for part in measured]

    def needs_others(self, batch: Batch, scope: Scope) -> bool:
        """Whether a segment of `scope` may have parts in several processes."""
        return self.reduces

    def clamp_(self, batch: Batch, low: Operand, high: Operand) -> Measure:
        """`measure` at scope `Element`, then `map_` with the response `Rescale`; bounds as in `map_`."""
        measure = self.measure(batch, Element(), Linf())
        self.map_(batch, Rescale(), low, high)
        return measure

    def in_arrays(self, measure: Measure) -> Measure:
        """`measure` in arrays, of an engine that measures one segment in plain floats."""
        return measure

    def in_floats(self, measure: Measure) -> Measure:
        """`measure` of one segment as this engine measures one: the way back from `in_arrays`, if that is floats."""
        return measure

    def on_host(self, arrays: Sequence[Operand]) -> Sequence[Array]:
        """The same arrays on the host, where the engine `moves` them; else as they are."""
        return arrays


class PartRefused(UnsupportedGradient):
    """Of the gradients that were reduced together one of those of `place` was refused."""

    def __init__(self, error: UnsupportedGradient, place: int) -> None:
        super().__init__(error.index, error.reason)
        self.place = place


class LiesOtherwise(Exception):
    """In some process a gradient does not lie as all were told: they have to agree anew and begin the step again."""


@contextmanager
def placed_at(places: Sequence[int]) -> Iterator[None]:
    """What is refused of a part of the gradients is refused by its place among all."""
    try:
        yield
    except UnsupportedGradient as error:
        error.index = places[error.index]
        raise


class OnOtherDevice(UnsupportedGradient):
    """A gradient that is not where the engine reads."""


def row_axes(scope: Scope, shapes: Sequence[Shape], unit_axis: Callable[[Shape], Axes]) -> list[Kept | None]:
    """For each tensor the axes whose indices are its segments; None, or no axis, where all of it is one segment."""
    if not isinstance(scope, Row):
        return [None] * len(shapes)
    wanted, known = scope.axis, dict[Shape, Kept | None]()
    for index, shape in enumerate(map(tuple, shapes)):
        if shape in known:
            continue
        if len(shape) < 2:
            known[shape] = None
        else:
            known[shape] = _kept_axes(unit_axis(shape) if wanted is None else wanted, shape, index)
    return [known[tuple(shape)] for shape in shapes]


def _kept_axes(wanted: Axes, shape: Shape, index: int) -> Kept:
    """The axes `wanted` of a tensor, from the front."""
    given = (wanted,) if isinstance(wanted, int) else wanted
    for axis in given:
        if not -len(shape) <= axis < len(shape):
            raise UnsupportedGradient(
                index,
                f"its shape {tuple(shape)} has no axis {axis} to take rows of: give it a rule of its own in Rules",
            )
    axes = tuple(sorted(axis % len(shape) for axis in given))
    if axes and (wrong := wrong_axes(axes)):
        raise UnsupportedGradient(
            index,
            f"the axes {given} of its shape {tuple(shape)} are {axes}, {wrong}, and those of a Row are neighbours: "
            "give it a rule of its own in Rules",
        )
    return axes


def rows_first(shapes: Sequence[Shape], axes: Sequence[Kept | None]) -> list[Shape]:
    """`shapes` with the number of rows in front of another axis or more; one alone where a tensor is one segment."""
    return [
        shape if kept is None or kept == FIRST else _merged(shape, kept)
        for shape, kept in zip(map(tuple, shapes), axes, strict=True)
    ]


def _merged(shape: Shape, kept: Kept) -> Shape:
    _, rows, after = around(shape, kept)
    if not kept:
        return (after,)
    return rows, *((*shape[: kept[0]], *shape[kept[-1] + 1 :]) or (1,))


def around(shape: Sequence[int], kept: Kept | None) -> tuple[int, int, int]:
    """A tensor of `shape` seen as [before, rows, after]: what lies before, at and after the axes of its rows."""
    if not kept:
        return 1, 1, math.prod(shape)
    first, end = kept[0], kept[-1] + 1
    return math.prod(shape[:first]), math.prod(shape[first:end]), math.prod(shape[end:])


def along(shape: Sequence[int], kept: Kept | None) -> list[int]:
    """The shape of a number for each row, to multiply a tensor of `shape`."""
    return [size if axis in (kept or ()) else 1 for axis, size in enumerate(shape)]
