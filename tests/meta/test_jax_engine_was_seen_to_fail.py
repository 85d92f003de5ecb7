"""Each of these bugs, planted in the JAX engine, turns a law red that is green without it."""

from __future__ import annotations

from unittest import mock

import jax.numpy as jnp
import numpy as np
import pytest

from few import few_shapes
from gradclip import ClipGradByGlobalNorm, ClipGradByNorm, ClipGradByValue, Rule, Zero
from gradclip.engines import jax_measure, jax_scale
from gradclip.engines.jax_pieces import singly
from gradclip.testing import laws, ordinary_gradients
from jax_bench import BENCH, float64_scalars

in_float64 = pytest.fixture(autouse=True)(float64_scalars)

HUGE = [np.full((2, 2), 1e25), np.array([3.0])]
BROKEN = [np.array([np.inf, 1.0]), np.array([3.0, 4.0])]
ONE = ClipGradByGlobalNorm(1.0)


def never_again(first, sizes, p):
    return jnp.ones_like(first, bool)


def in_half(x):
    return jnp.abs(x.astype(jnp.bfloat16))


def only_from_above(x, bounds):
    return jnp.minimum(x, bounds.above)


def forget_programs():
    """What was compiled before does not know of the bug."""
    for module in (jax_measure, jax_scale):
        for program in vars(module).values():
            if hasattr(program, "clear_cache"):
                program.clear_cache()


PLANTS = [
    ("squares that left float32 are kept", jax_measure, "_kept", never_again, laws.every_norm_is_right, ONE, HUGE),
    ("sums in 16 bits", jax_measure, "_narrow", in_half, laws.every_norm_is_right, ClipGradByNorm(1.0), None),
    ("0 * inf", jax_scale, "_or_zero", lambda product, factor: product,
     laws.zeroing_leaves_only_finite_numbers, Rule(response=Zero()), BROKEN),
    ("the lower bound is forgotten", jax_scale, "_between", only_from_above,
     laws.it_agrees_with_the_reference, ClipGradByValue(0.5), None),
    ("only the first array is read", jax_measure, "pieces_of", lambda arrays, kept=(): singly(arrays[:1]),
     laws.every_norm_is_right, ONE, None),
]  # fmt: skip


@pytest.mark.parametrize(
    ("module", "name", "bug", "law", "rule", "arrays"), [p[1:] for p in PLANTS], ids=[p[0] for p in PLANTS]
)
def test_the_law_is_green_and_with_the_bug_red(module, name, bug, law, rule, arrays):
    gradients = few_shapes(ordinary_gradients()) if arrays is None else arrays
    law(BENCH, rule, gradients)
    forget_programs()
    try:
        with mock.patch.object(module, name, bug), pytest.raises(AssertionError):
            law(BENCH, rule, gradients)
    finally:
        forget_programs()
