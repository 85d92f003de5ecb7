"""AGC in every engine against the formula of the paper in float64, with the units that the originals take.

The originals are `unitwise_norm` of timm for PyTorch, and of NFNets and Optax for JAX, which reads a weight whose axes
but one have size 1 as a vector. Tolerance: norms of up to 64 elements in another order, 1e-14, and a few roundings.
"""

from __future__ import annotations

import numpy as np
import pytest

from benches import BENCHES
from gradclip import AGC
from gradclip.clipper import Clipper
from gradclip.step.gradients import Gradients
from jax_bench import float64_scalars

in_float64 = pytest.fixture(autouse=True)(float64_scalars)

SHAPES = [
    *((), (1,), (5,), (0,), (3, 4), (4, 1), (1, 4), (1, 1), (0, 3), (3, 0)),
    *((2, 3, 4), (1, 1, 4), (4, 1, 1), (1, 3, 4), (2, 1, 4), (2, 3, 1), (1, 1, 1), (2, 0, 3)),
    *((3, 2, 2, 4), (1, 1, 1, 4), (1, 1, 4, 2), (1, 1, 2, 4), (4, 1, 1, 1)),
    *((2, 1, 3, 2, 4), (1, 1, 1, 1, 3), (2, 2, 1, 2, 3, 2), (1, 1, 1, 1, 2, 4)),
]


def of_timm(shape):
    """The axes that a norm is taken over."""
    return tuple(range(1, len(shape)))


def of_nfnets(shape):
    """The same for kernels whose outputs lie last; three axes are those of attention, (in, heads, dim)."""
    if np.squeeze(np.empty(shape)).ndim <= 1:
        return tuple(range(len(shape)))
    return (0,) if len(shape) == 3 else tuple(range(len(shape) - 1))


def of_paddle(shape):
    """The same for `paddle.nn.Linear`, which keeps (in, out), and convolutions, (out, in, height, width)."""
    return (0,) if len(shape) == 2 else tuple(range(1, len(shape)))


UNITS = {
    "reference": of_timm,
    "torch": of_timm,
    "torch on a device": of_timm,
    "torch on devices": of_timm,
    "cpu": of_timm,
    "cpu, of Paddle": of_paddle,
    "paddle on a device": of_paddle,
    "jax": of_nfnets,
}


def original(gradient, weight, ratio, floor, over):
    """The formula: `g` where its norm over the axes is below `ratio max(||w||, floor)`, else scaled to that."""
    over = tuple(range(gradient.ndim)) if gradient.ndim < 2 else over
    sizes = [np.sqrt(np.sum(np.square(x), axis=over, keepdims=True)) for x in (gradient, weight)]
    most = ratio * np.maximum(sizes[1], floor)
    return np.where(sizes[0] <= most, gradient, gradient * (most / np.maximum(sizes[0], 1e-300)))


def drawn(shape, seed):
    """A gradient whose elements are of sizes from 1e-3 to 10, and weights of which some are zero."""
    draw = np.random.default_rng(seed)
    gradient = draw.standard_normal(shape) * 10.0 ** draw.uniform(-3, 1, shape)
    return np.array(gradient), np.array(draw.standard_normal(shape) * (draw.random(shape) < 0.7))


def clips_as_the_original(bench, rule, shapes, over):
    pairs = [drawn(shape, seed) for seed, shape in enumerate(shapes)]
    tensors = [bench.make(gradient, "float64") for gradient, _ in pairs]
    weights = [bench.make(weight, "float64") for _, weight in pairs]
    gradients = Gradients(tensors, "t{}".format, None, weights=lambda: weights)
    Clipper(rule).clip_gradients(gradients, bench.engine)
    for shape, (gradient, weight), tensor in zip(shapes, pairs, tensors, strict=True):
        wanted = original(gradient, weight, 0.1, 1e-3, over(shape))
        np.testing.assert_allclose(bench.read(tensor), wanted, rtol=1e-13, err_msg=f"{rule} on {shape}")


@pytest.mark.parametrize("engine", BENCHES)
def test_the_units_of_each_framework_are_those_of_its_original(engine):
    clips_as_the_original(BENCHES[engine], AGC(0.1), SHAPES, UNITS[engine])


@pytest.mark.parametrize("axis", [(0, 1), (1, 2), (-2, -1), (0, 1, 2), (-1, 0)])
@pytest.mark.parametrize("engine", BENCHES)
def test_several_axes_are_kept_where_they_are_named(engine, axis):
    """Whatever their sizes; the last axis is next to the first one of a matrix alone."""

    def over(shape):
        return tuple(place for place in range(len(shape)) if not {place, place - len(shape)} & set(axis))

    most = 2 if axis == (-1, 0) else 6
    shapes = [shape for shape in SHAPES if len(shape) < 2 or 2 <= len(axis) <= len(shape) <= most]
    shapes = [shape for shape in shapes if len(shape) < 2 or len(shape) > max(axis)]
    clips_as_the_original(BENCHES[engine], AGC(0.1, axis=axis), shapes, over)
