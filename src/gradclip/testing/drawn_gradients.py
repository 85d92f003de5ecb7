"""Gradients to try the laws on: ordinary ones, and those on which clipping goes wrong."""

from __future__ import annotations

import numpy as np

from gradclip.testing.bench import ROUNDING, Values

SHAPES = ((), (3,), (4, 5), (7, 129), (0,), (2, 3, 5), (1300,))
"""No axis, one, more; one that no vector width divides; none; and one longer than the blocks that engines sum in."""

# Of float64 only what its own squares can hold: beyond that its norms are infinite, as they are in PyTorch.
LARGEST = {"float16": 6e4, "bfloat16": 3e38, "float32": 3e38, "float64": 1e150, "complex64": 1e38}
DENORMAL = {"float16": 6e-8, "bfloat16": 1e-39, "float32": 1e-44, "float64": 1e-140, "complex64": 1e-44}


def ordinary_gradients(seed: int = 0, spread: float = 1.0) -> list[Values]:
    """Normal numbers of several shapes; each tensor has a size of its own, by factors of up to 10^(2 `spread`)."""
    random = np.random.default_rng(seed)
    sizes = 10.0 ** random.uniform(-spread, spread, len(SHAPES))
    return [np.asarray(random.standard_normal(shape) * size) for shape, size in zip(SHAPES, sizes, strict=True)]


def adversarial_gradients(dtype: str = "float32") -> dict[str, list[Values]]:
    """Lists of gradients by name, each within the range of `dtype`.

    Most have the shapes of a few others: an engine that compiles a program for each list of shapes has less to compile.
    """
    largest, tiny = LARGEST[dtype], DENORMAL[dtype]
    ordinary = ordinary_gradients(3, spread=0.5)
    small = [np.full((2, 2), 1.0), np.full(3, 1.0), np.array(1.0)]
    finite = {
        "largest numbers": [np.full((2, 2), largest), np.array([1.0, -largest, largest]), np.array(1.0)],
        "many large numbers": [np.full((2, 300), -largest / 3), np.full(1300, largest / 2)],
        "denormals": [array * tiny for array in small],
        "largest and smallest": [
            np.array([[tiny, -tiny], [largest, 1.0]]), np.array([largest, tiny, -1.0]), np.array(tiny),
        ],
        "zeros": [array * 0.0 for array in small],
        "negative zeros": [np.full((2, 2), -0.0), np.array([-0.0, 0.0, 3.0]), np.array(-0.0)],
        "one number": [np.array(5.0)],
        "empty tensors": [np.zeros((0, 3)), np.zeros(0), np.array([3.0, 4.0, 0.0])],
        "rows without elements": [np.zeros((3, 0)), np.array([[3.0, 4.0], [0.1, 0.1]])],
        "only an empty tensor": [np.zeros(0)],
        "exactly the limit": [np.array([[0.6, 0.8], [0.0, 0.0]]), np.zeros(3), np.array(0.0)],
    }  # fmt: skip
    if ROUNDING[dtype] < 2.0**-11 or dtype == "bfloat16":
        finite |= {"1e25": [np.resize([1e25, -2e25, 3e25, 1.0], (2, 300)), np.full(1300, 1e25)]}
        finite |= {"1e-25": [np.full((2, 300), 1e-25), np.resize([-1e-25, 2e-25], 1300)]}
    broken = {
        "a NaN": _broken(ordinary, np.nan),
        "an inf": _broken(ordinary, np.inf),
        "a negative inf": _broken(ordinary, -np.inf),
        "NaN and inf": [np.array([[np.nan, 1.0], [2.0, np.inf]]), np.array([np.inf, -np.inf, 2.0]), np.array(3.0)],
        "a NaN alone": [np.full((2, 2), 0.1), np.full(3, 0.1), np.array(np.nan)],
        "a NaN beside the largest": [np.array([[largest, np.nan], [1.0, largest]]), np.full(3, largest), np.array(1.0)],
    }
    return finite | broken


def _broken(arrays: list[Values], element: float) -> list[Values]:
    """`arrays` with one element of the matrix (7, 129) replaced."""
    arrays = [array.copy() for array in arrays]
    arrays[3][2, 77] = element
    return arrays
