"""The engine of JAX arrays, eager or traced: the slots get new arrays, and no number is read on the host.

Totals, norms and coefficients are float64 scalars even where JAX is otherwise limited to 32 bits, so no finite 16- or
32-bit gradient leaves the range; elements are read and written in their own type.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gradclip.engines.base import (
    NO_FLOAT,
    NO_ORDER,
    Engine,
    Kept,
    Measure,
    Slot,
    Tables,
    UnsupportedGradient,
    row_axes,
    rows_first,
)
from gradclip.engines.jax_measure import PLAIN, peaks, scaled_totals, totals, whole
from gradclip.engines.jax_numbers import is_narrow, ordered, power, root, taken, widened
from gradclip.engines.jax_pieces import on_mesh
from gradclip.engines.jax_scale import bounded, clamped, scaled
from gradclip.engines.jax_shards import shardings_of, varying, whole_of_shards
from gradclip.rules.arrays import Operand
from gradclip.rules.norm import Norm
from gradclip.rules.response import Response, is_clamp
from gradclip.rules.scope import Axes, Element, Global, Scope
from gradclip.rules.segments import Shape

DTYPES = ("bfloat16", "float16", "float32", "float64", "complex64", "complex128")

NARROW = (jnp.bfloat16, jnp.float16)


class JaxFunctions:
    """`ArrayFunctions` for JAX arrays of one axis."""

    sqrt = staticmethod(root)
    power = staticmethod(power)

    @staticmethod
    def where(condition: Array, then: Array, other: Array) -> Array:
        return jnp.where(condition, then, other)

    @staticmethod
    def tanh(a: Array) -> Array:
        return jnp.tanh(a)

    @staticmethod
    def either(a: Array, b: Array) -> Array:
        return jnp.logical_or(a, b)

    @staticmethod
    def any(a: Array) -> Array:
        return jnp.any(a)

    @staticmethod
    def maximum(a: Array, b: Array) -> Array:
        return jnp.maximum(_wide(a), _wide(b))

    @staticmethod
    def nonfinite(a: Array) -> Array:
        return ~jnp.isfinite(a)

    @staticmethod
    def array(values: Sequence[float], like: Array) -> Array:
        return jnp.asarray(values, like.dtype)

    @staticmethod
    def indices(values: Sequence[int], like: Array) -> np.ndarray:
        return np.asarray(values, np.int32)

    @staticmethod
    def take(a: Array, index: Array) -> Array:
        return taken(a, index)

    @staticmethod
    def sort(a: Array) -> Array:
        return ordered(a)

    @staticmethod
    def sum(a: Array) -> Array:
        return jnp.sum(a, axis=0)

    @staticmethod
    def column(n: int, like: Array) -> Array:
        return jnp.arange(n, dtype=like.dtype)[:, None]

    @staticmethod
    def combine(a: Array, index: Array, segments: int, how: str) -> Array:
        out = jnp.zeros(segments, a.dtype).at[index]
        return out.add(a) if how == "sum" else out.max(a)


FUNCTIONS = JaxFunctions()


def _wide(a: Operand) -> Operand:
    """A limit that a program has computed may be float32, of which the smallest numbers of float64 would be zero."""
    return a if isinstance(a, int | float) else a.astype(jnp.float64)


class JaxValues:
    """`Values` for slots with JAX arrays, eager or traced."""

    @staticmethod
    def wide(tensor: Slot, index: int) -> Array:
        array: Array = tensor.value
        return array.astype(jnp.float32) if array.dtype in NARROW else array

    @staticmethod
    def tensor(value: Array, like: Slot) -> Slot:
        return Slot(value)

    @staticmethod
    def zeros(value: Array) -> Array:
        return jnp.zeros_like(value)

    @staticmethod
    def where(flag: Array, then: Array, other: Array) -> Array:
        return jnp.where(flag, then, other)

    @staticmethod
    def put_(tensor: Slot, source: Slot) -> None:
        tensor.value = source.value.astype(tensor.value.dtype)

    @staticmethod
    def beside(saved: Array, value: Array) -> Array:
        return saved.astype(value.dtype)


class JaxBatch(NamedTuple):
    """The slots of the gradients."""

    slots: list[Slot]

    @property
    def arrays(self) -> list[Array]:
        """What the slots hold now."""
        return [slot.value for slot in self.slots]

    def axes(self, scope: Scope) -> list[Kept | None]:
        """The axes of the rows of each gradient."""
        return row_axes(scope, [array.shape for array in self.arrays], unit_axis)


def unit_axis(shape: Shape) -> Axes:
    """The axis of the output units: flax keeps the kernel of `Dense` (in, out), of `Conv` (height, width, in, out).

    Three axes are those of attention (in, heads, dim). As in Optax's `unitwise_norm`, axes of size 1 are none where
    fewer than two others are left.
    """
    if sum(size != 1 for size in shape) < 2:
        return ()
    return (1, 2) if len(shape) == 3 else len(shape) - 1


class JaxEngine(Engine):
    """Arrays of any float or complex type on any device, in a `Slot` each. Works inside `jax.enable_x64(True)` only.

    It counts a tensor with non-finite elements as one.
    """

    name = "jax"
    values = JaxValues()
    waits = True
    clamps = True
    xp = FUNCTIONS
    unit_axis = staticmethod(unit_axis)

    def owns(self, tensor: object) -> bool:
        return isinstance(tensor, Slot) and isinstance(tensor.value, jax.Array) and tensor.value.dtype.name in DTYPES

    def gather(self, tensors: list[Slot], tables: Tables | None = None) -> JaxBatch:
        if jax.dtypes.canonicalize_dtype(np.float64) != np.float64:
            raise RuntimeError("the JAX engine makes its scalars in float64: call it inside `jax.enable_x64(True)`")
        for index, slot in enumerate(tensors):
            if not self.owns(slot):
                kind = getattr(slot.value, "dtype", type(slot.value).__name__)
                raise UnsupportedGradient(index, f"{NO_FLOAT.format(kind)} by need_clip")
        return JaxBatch(tensors)

    def repeated(self, batch: JaxBatch) -> set[int]:
        return set()  # the leaves of a tree are parameters of their own

    def refuse_unordered(self, batch: JaxBatch) -> None:
        for index, array in enumerate(batch.arrays):
            if jnp.iscomplexobj(array):
                raise UnsupportedGradient(index, NO_ORDER)

    def measure(self, batch: JaxBatch, scope: Scope, norm: Norm) -> Measure:
        if isinstance(scope, Element):
            self.refuse_unordered(batch)
            total, nonfinite = peaks(batch.arrays)
            return Measure(total, nonfinite, FUNCTIONS)
        together = isinstance(scope, Global)
        plain = norm.combine == "max" or (norm.p <= PLAIN and not self.holds_float64(batch))
        if together and plain:
            shardings = shardings_of(batch.slots)
            if shardings:
                total, nonfinite = whole_of_shards(batch.arrays, shardings, norm.p)
            else:
                total, nonfinite = whole(batch.arrays, norm.p)
            return Measure(total, nonfinite, FUNCTIONS)
        kept = () if together else tuple(batch.axes(scope))
        scale: Array | float = 1.0
        if plain:
            total = totals(batch.arrays, norm.p, kept)
        else:
            total, scale = scaled_totals(batch.arrays, norm.p, kept, together)
        nonfinite = (~jnp.isfinite(total)).astype(total.dtype)
        if together:
            total = jnp.max(total, keepdims=True) if norm.combine == "max" else jnp.sum(total, keepdims=True)
            nonfinite = jnp.sum(nonfinite, keepdims=True)
        return Measure(total, nonfinite, FUNCTIONS, scale)

    def apply_(
        self, batch: JaxBatch, scope: Scope, coefficient: Array, zeroes: bool = True, enlarges: bool = True
    ) -> None:
        if not batch.slots:
            return
        kept = () if isinstance(scope, Global) else tuple(batch.axes(scope))
        _fill(batch.slots, scaled(batch.arrays, coefficient, zeroes, enlarges, kept, is_narrow()))

    def clamp_(self, batch: JaxBatch, low: Operand, high: Operand) -> Measure:
        """`measure(Element)` and `map_(Rescale)`."""
        self.refuse_unordered(batch)
        total, nonfinite = peaks(batch.arrays)
        if batch.slots:
            limits = jnp.stack([jnp.asarray(high), -jnp.asarray(low)])
            outside = jnp.any(total.reshape(-1, 2) > limits) | jnp.any(nonfinite > 0)
            mixed = len(set(map(varying, batch.arrays))) > 1  # then it differs between devices, and copies do not
            spread = any(map(on_mesh, batch.arrays))  # all devices would wait for it
            _fill(batch.slots, clamped(batch.arrays, low, high, jnp.array(True) if mixed or spread else outside))
        return Measure(total, nonfinite, FUNCTIONS)

    def map_(self, batch: JaxBatch, response: Response, low: Operand, high: Operand) -> None:
        self.refuse_unordered(batch)
        lows, highs = (jnp.broadcast_to(bound, len(batch.slots)) for bound in (low, high))
        for index, slot in enumerate(batch.slots):
            slot.value = _mapped(slot.value, response, lows[index], highs[index])

    def zero_nonfinite_(self, batch: JaxBatch) -> None:
        for slot in batch.slots:
            slot.value = jnp.where(jnp.isfinite(slot.value), slot.value, jnp.zeros_like(slot.value))

    def shapes(self, batch: JaxBatch, scope: Scope) -> list[Shape]:
        return rows_first([array.shape for array in batch.arrays], batch.axes(scope))

    def holds_float64(self, batch: JaxBatch) -> bool:
        return any(array.dtype in (jnp.float64, jnp.complex128) for array in batch.arrays)

    def to_host(self, array: Array) -> list[float]:
        return list(np.atleast_1d(np.asarray(array)).tolist())


def _fill(slots: list[Slot], arrays: list[Array]) -> None:
    for slot, array in zip(slots, arrays, strict=True):
        slot.value = array


@partial(jax.jit, static_argnames="response")
def _mapped(array: Array, response: Response, low: Operand, high: Operand) -> Array:
    """Each finite element x as `phi(|x| / t) x`; one with a coefficient of 1 keeps its bits, NaN too."""
    if is_clamp(response):
        return bounded(array, low, high)
    wide = widened(array)
    ratio = jnp.abs(wide) / jnp.where(wide > 0, high, -low)
    coefficient: Operand = response.coefficient(ratio, FUNCTIONS)
    changes = jnp.isfinite(wide) & (coefficient != 1.0)
    return jnp.where(changes, (wide * coefficient).astype(array.dtype), array)


JAX = JaxEngine()
