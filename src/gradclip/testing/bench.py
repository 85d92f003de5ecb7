"""The bench: how the laws make tensors, clip them with an engine, and see what was written."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from gradclip.clipper import Clipper
from gradclip.engines.base import Batch, Engine, Gradient, Measure, Measured, Slot
from gradclip.engines.reference import ReferenceEngine, first_axis
from gradclip.errors import GradclipWarning, GradientAboveThreshold, NonFiniteGradient
from gradclip.rules.norm import Norm
from gradclip.rules.rule import AnyRule
from gradclip.rules.scope import Axes, Scope
from gradclip.rules.segments import Shape
from gradclip.step.gradients import Gradients
from gradclip.step.result import Result

Values: TypeAlias = np.ndarray
"""float64, or complex128 for complex gradients: every gradient fits, and the laws calculate in it."""

NORM_TOLERANCE = 1e-6
"""How far a norm may be from the truth, relative."""

ROUNDING = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-24, "float64": 2.0**-53, "complex64": 2.0**-24}
SMALLEST = {"float16": 2.0**-24, "bfloat16": 2.0**-133, "float32": 2.0**-149, "float64": 5e-324, "complex64": 2.0**-148}
"""For each dtype half the distance of two numbers near 1, and the distance of two numbers near 0."""


class Outcome(NamedTuple):
    """One clip: the values before and after, which tensors were written, and the result or the error.

    >>> outcome = REFERENCE.clip(ClipGradByNorm(1.0), [np.array([3.0, 4.0])])
    >>> outcome.after[0].round(6).tolist(), outcome.wrote
    ([0.6, 0.8], [True])
    """

    before: list[Values]
    after: list[Values]
    wrote: list[bool]
    tensors: list[Gradient]
    result: Result | None
    error: Exception | None


@dataclass(frozen=True)
class Bench:
    """An engine with what the laws need to know of its tensors.

    `make(values, dtype)` makes a tensor of the dtype with this name, `read(tensor)` gives its numbers as NumPy floats.
    `stamp(tensor)` is anything that changes when the tensor is written. Without it a write is seen by
    its bits: so for an engine that waits for a device and multiplies by 1 sooner than ask.
    `unit_axis(shape)` is the axis, or axes, that `Row()` is to mean for a tensor of two axes or more.
    `unread()` is a context in which reading a number of a tensor raises; it is asked of engines that wait for a device.

    >>> double = Bench(ReferenceEngine(), make=lambda values, dtype: values.astype(dtype), read=np.asarray)
    >>> double.clip(ClipGradByNorm(1.0), [np.array([3.0, 4.0])]).result.norm_before
    5.0
    """

    engine: Engine
    make: Callable[[Values, str], Gradient]
    read: Callable[[Gradient], Values]
    dtype: str = "float32"
    stamp: Callable[[Gradient], object] | None = None
    unit_axis: Callable[[Shape], Axes] = first_axis
    unread: Callable[[], AbstractContextManager[object]] = field(default=nullcontext)

    @property
    def oracle(self) -> Bench:
        """The reference engine, with rows along the same axis."""
        return replace(REFERENCE, engine=ReferenceEngine(self.unit_axis))

    @property
    def tolerance(self) -> float:
        """Of one element: that of the norm, two roundings of coefficient and product to fp32, one to the dtype."""
        return NORM_TOLERANCE + 2 * 2.0**-24 + ROUNDING[self.dtype]

    @property
    def smallest(self) -> float:
        return SMALLEST[self.dtype]

    def values(self, tensor: Gradient) -> Values:
        """The numbers of `tensor` in a copy that is wide enough for all."""
        found = np.asarray(self.read(tensor))
        return found.astype(np.complex128 if found.dtype.kind == "c" else np.float64)

    def tensors(self, arrays: Sequence[Values]) -> list[Gradient]:
        return [self.make(np.array(array), self.dtype) for array in arrays]

    def moments(self, arrays: Sequence[Values]) -> list[Gradient]:
        """Second moments with these values, as an optimizer keeps them."""
        kept = self.tensors(arrays)
        return [tensor.value if isinstance(tensor, Slot) else tensor for tensor in kept]

    def handed(self, tensors: Sequence[Gradient]) -> list[Gradient]:
        """The tensors as the engine takes them."""
        return list(tensors)

    def measured(self, tensors: Sequence[Gradient], scope: Scope, norm: Norm) -> tuple[Measure, Batch]:
        """The measure of the tensors, over all processes that have parts of them, and the batch."""
        batch = self.engine.gather(self.handed(tensors))
        measure = self.engine.measure(batch, scope, norm)
        return self.engine.reduce([Measured(batch, scope, norm, measure)])[0], batch

    def clip(
        self, rule: AnyRule | Clipper, arrays: Sequence[Values], order: Sequence[int] | None = None, **options: Any
    ) -> Outcome:
        """Clip tensors with the values `arrays` by a rule, or by a clipper that has clipped before."""
        return self.clip_tensors(rule, self.tensors(arrays), order, **options)

    def clip_tensors(
        self, rule: AnyRule | Clipper, tensors: list[Gradient], order: Sequence[int] | None = None, **options: Any
    ) -> Outcome:
        """Clip `tensors`; one with the number i in `order` is called "t<i>" and belongs to group i modulo 2.

        The weights are those of `weights_like`, and the second moments their squares.
        """
        clipper = rule if isinstance(rule, Clipper) else Clipper(rule, **options)
        numbers = range(len(tensors)) if order is None else order
        names, groups = [f"t{i}" for i in numbers], [i % 2 for i in numbers]
        before, stamps = [self.values(tensor) for tensor in tensors], self._stamps(tensors)
        result, error = None, None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", GradclipWarning)
            warnings.simplefilter("ignore", RuntimeWarning)  # NumPy's, of calculating with infinities
            try:
                gradients = Gradients(
                    self.handed(tensors),
                    names.__getitem__,
                    groups,
                    weights=lambda: self.handed(self.tensors(weights_like(before))),
                    moments=lambda: self.moments([weight * weight for weight in weights_like(before)]),
                )
                result = clipper.clip_gradients(gradients, self.engine)
            except (NonFiniteGradient, GradientAboveThreshold) as caught:
                error = caught
        after = [self.values(tensor) for tensor in tensors]
        if self.stamp is None:
            wrote = [not same_bits(a, b) for a, b in zip(before, after, strict=True)]
        else:
            wrote = [old != new for old, new in zip(stamps, self._stamps(tensors), strict=True)]
        return Outcome(before, after, wrote, tensors, result, error)

    def _stamps(self, tensors: list[Gradient]) -> list[object]:
        return [] if self.stamp is None else [self.stamp(tensor) for tensor in tensors]


def weights_like(arrays: Sequence[Values]) -> list[Values]:
    """Weights from -1 to 1, with the shapes of `arrays`; zeros where there are three axes.

    They are sixteenths, so that they and their squares are the same numbers in every dtype.
    """
    ends = [(-16, 16) if array.ndim < 3 else (0, 0) for array in arrays]
    return [np.linspace(*end, a.size).round().reshape(a.shape) / 16 for end, a in zip(ends, arrays, strict=True)]


def _array(values: Values, dtype: str) -> Values:
    return np.array(values, dtype="complex128" if values.dtype.kind == "c" else dtype)


REFERENCE = Bench(ReferenceEngine(), make=_array, read=np.asarray, dtype="float64")
"""The engine that all others are compared with: NumPy, in float64."""


def same_bits(a: Values, b: Values) -> bool:
    """Equal shapes and equal bits; any NaN is equal to any other."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    a, b = _real(a), _real(b)
    return bool(((a.view(np.int64) == b.view(np.int64)) | (np.isnan(a) & np.isnan(b))).all())


def _real(values: Values) -> Values:
    flat = np.ascontiguousarray(values).reshape(-1)
    return flat.view(np.float64) if flat.dtype.kind == "c" else flat


def differences(actual: Values, expected: Values, tolerance: float, smallest: float) -> str:
    """What is wrong with `actual`, or nothing: NaN and infinity in the same places, the others within tolerance."""
    if actual.shape != expected.shape:
        return f"shape {actual.shape} instead of {expected.shape}"
    a, b = _real(actual), _real(expected)
    with np.errstate(invalid="ignore", over="ignore"):
        close = np.abs(a - b) <= tolerance * _size(expected) + smallest
    wrong = np.flatnonzero(~(close | (a == b) | (np.isnan(a) & np.isnan(b))))
    if not wrong.size:
        return ""
    return f"element {wrong[0]} of {a.size} is {a[wrong[0]]!r} instead of {b[wrong[0]]!r} ({wrong.size} differ)"


def _size(values: Values) -> Values:
    """The magnitude to which a tolerance is relative: of a complex number, that of both its parts."""
    flat = np.abs(values).reshape(-1)
    flat = np.where(np.isfinite(flat), flat, 0.0)
    return np.repeat(flat, 2) if values.dtype.kind == "c" else flat
