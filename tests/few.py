"""Fewer gradients for engines that make a program for each list of shapes, or for each array of one."""

from __future__ import annotations

import numpy as np

from effort import FEW_SHAPES, LONG
from gradclip.testing.drawn_gradients import SHAPES


def few_shapes(arrays: list[np.ndarray]) -> list[np.ndarray]:
    """In the short form an array with each number of axes and the empty ones: for those there are programs already.

    The others are for engines with vectors and blocks of their own; of one that is not finite a block is kept.
    """
    if LONG or [array.shape for array in arrays] != list(SHAPES):
        return arrays
    kept = {array.shape: array for array in arrays if array.shape in FEW_SHAPES}
    for array in arrays:
        if array.shape not in FEW_SHAPES and not np.isfinite(array).all():
            block = nonfinite_block(array)
            kept[block.shape] = block
    return list(kept.values())


def nonfinite_block(array: np.ndarray) -> np.ndarray:
    """The part of an array that is not finite, in the shape of the one with as many axes that is kept."""
    (shape,) = (shape for shape in FEW_SHAPES if len(shape) == array.ndim and all(shape))
    places = np.argwhere(~np.isfinite(array))[0]
    starts = [min(place, size - wanted) for place, size, wanted in zip(places, array.shape, shape, strict=True)]
    return array[tuple(slice(start, start + wanted) for start, wanted in zip(starts, shape, strict=True))]
