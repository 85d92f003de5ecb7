"""Gradients to try the laws on: ordinary ones, and those on which clipping goes wrong."""

from __future__ import annotations

import numpy as np

from gradclip.testing.bench import ROUNDING, Values

SHAPES = ((), (3,), (4, 5), (7, 129), (0, 3), (2, 3, 5), (3, 0), (1300,))
"""No axis, one, more; one that no vector width divides; no rows, empty rows; one longer than the blocks of engines."""

# Of float64 what leaves room for sums over all elements; squares of these are beyond it.
LARGEST = {"float16": 6e4, "bfloat16": 3e38, "float32": 3e38, "float64": 1e300, "complex64": 1e38}
DENORMAL = {"float16": 6e-8, "bfloat16": 1e-39, "float32": 1e-44, "float64": 1e-300, "complex64": 1e-44}


def ordinary_gradients(seed: int = 0, spread: float = 1.0) -> list[Values]:
    """Normal numbers of several shapes; each tensor has a size of its own, by factors of up to 10^(2 `spread`).

    >>> [gradient.shape for gradient in ordinary_gradients(seed=0)][:3]
    [(), (3,), (4, 5)]
    """
    random = np.random.default_rng(seed)
    sizes = 10.0 ** random.uniform(-spread, spread, len(SHAPES))
    return [np.asarray(random.standard_normal(shape) * size) for shape, size in zip(SHAPES, sizes, strict=True)]


def adversarial_gradients(dtype: str = "float32") -> dict[str, list[Values]]:
    """Lists of gradients by name, each within the range of `dtype`.

    Most have the shapes of the ordinary ones: an engine that compiles a program for each list of shapes has few then.

    >>> "denormals" in adversarial_gradients("float16")
    True
    """
    largest, tiny = LARGEST[dtype], DENORMAL[dtype]
    ordinary = ordinary_gradients(3, spread=0.5)
    finite = {
        "largest numbers": _filled([largest, 1.0, -largest, largest, -largest]),
        "many large numbers": _filled([largest / 2, -largest / 3]),
        "denormals": _filled([tiny]),
        "largest and smallest": _filled([tiny, largest, -1.0, -tiny]),
        "zeros": _filled([0.0]),
        "negative zeros": _filled([-0.0, 0.0], vector=[-0.0, 0.0, 3.0]),
        "one number": [np.array(5.0)],
        "only empty tensors": [np.zeros(shape) for shape in ((0,), (0, 3), (3, 0)) * 2],
        "exactly the limit": _filled([0.0], matrix=[0.6, 0.8, *[0.0] * 18]),
    }
    if ROUNDING[dtype] < 2.0**-11 or dtype == "bfloat16":
        finite |= {"1e25": _filled([1e25, -2e25, 3e25, 1.0]), "1e-25": _filled([1e-25, -1e-25, 2e-25])}
    broken = {
        "a NaN": _broken(ordinary, np.nan),
        "an inf": _broken(ordinary, np.inf),
        "a negative inf": _broken(ordinary, -np.inf),
        "NaN and inf": _filled([3.0], vector=[np.inf, -np.inf, 1.0], matrix=[np.nan, 1.0, 2.0, np.inf]),
        "a NaN alone": _filled([0.5], scalar=[np.nan]),
        "a NaN beside the largest": _filled([largest], vector=[largest, np.nan, 1.0]),
    }
    return finite | broken


def _filled(
    others: list[float],
    scalar: list[float] | None = None,
    vector: list[float] | None = None,
    matrix: list[float] | None = None,
) -> list[Values]:
    """Arrays with the shapes of the ordinary ones, full of `others`, but for the first of no, one and two axes."""
    numbers = [scalar or others, vector or others, matrix or others, *[others] * (len(SHAPES) - 3)]
    return [np.resize(these, shape) for these, shape in zip(numbers, SHAPES, strict=True)]


def _broken(arrays: list[Values], element: float) -> list[Values]:
    """`arrays` with one element of the matrix (7, 129) replaced."""
    arrays = [array.copy() for array in arrays]
    arrays[3][2, 77] = element
    return arrays
