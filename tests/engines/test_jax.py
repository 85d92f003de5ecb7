"""The JAX engine: what is its own beside the laws."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradclip.optax
from gradclip import L1, L2, RMS, ClipGradByGlobalNorm, ClipGradByNorm, ClipGradByValue, Global, Linf, Lp, Row, Tensor
from gradclip.engines import jax_measure, jax_scale
from gradclip.engines.base import Slot
from gradclip.engines.jax import JAX
from gradclip.engines.jax_numbers import in_float64, widened
from gradclip.engines.jax_pieces import singly


@pytest.fixture(autouse=True)
def float64_scalars():
    with jax.enable_x64(True):
        yield


def norm_of(array, norm=None, scope=None):
    measure = JAX.measure(JAX.gather([Slot(array)]), scope or Global(), norm or L2())
    size = jnp.asarray([array.size], jnp.float64)
    return (norm or L2()).finish(measure.total, size, measure.xp) * measure.scale


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_every_number_of_a_type_is_read_as_it_is(dtype):
    """Denormal numbers too, which XLA on a CPU takes for zero elsewhere."""
    values = np.array([0.0, -0.0, 1e-45, -1e-39, 3e-8, 1.17e-38, 1.0, -6e4, np.inf, -np.inf, np.nan])
    stored = jnp.asarray(values, dtype)
    truth = np.asarray(stored).astype(np.float64)
    found = np.asarray(jax.jit(widened)(stored))
    np.testing.assert_array_equal(found, truth)
    np.testing.assert_array_equal(np.signbit(found), np.signbit(truth))


@pytest.mark.parametrize("make", [np.ones, np.random.default_rng(0).standard_normal], ids=["equal", "normal"])
def test_twenty_million_elements_are_summed_right(make):
    """XLA sums in a tree: far below 1e-6, where adding one after another loses 1e-2 of equal numbers."""
    values = (make(20_000_000) * 1e-3).astype(np.float32)
    truth = np.sqrt(np.square(values, dtype=np.float64).sum())
    assert float(norm_of(jnp.asarray(values))[0]) == pytest.approx(truth, rel=1e-7)


@pytest.mark.parametrize("size", [1e-45, 1e-39, 1e-30, 1e-19, 1.0, 1e19, 3e38])
@pytest.mark.parametrize("norm", [L1(), L2(), Linf(), Lp(3.0), Lp(0.5), RMS()], ids=repr)
@pytest.mark.parametrize("scope", [Row(), Tensor(), Global()], ids=str)
def test_norms_are_right_over_the_whole_range_of_float32(size, norm, scope):
    stored = jnp.asarray(np.full(7, size), jnp.float32)
    element = float(np.asarray(stored).astype(np.float64)[0])
    truth = element * {"L1": 7.0, "L2": 7**0.5}.get(type(norm).__name__, 7 ** (1 / norm.p))
    truth = element if isinstance(norm, Linf | RMS) else truth
    assert float(norm_of(stored, norm, scope)[0]) == pytest.approx(truth, rel=1e-6)


def test_the_way_of_other_devices_gives_the_same_numbers():
    """On a CPU the branches are taken; what accelerators do instead is run here by hand."""
    array = jnp.asarray(np.random.default_rng(0).standard_normal((50, 7)), jnp.float32)
    for p in (1.0, 2.0, np.inf):
        exact = jax_measure._exact_totals(singly([array]), p)
        np.testing.assert_allclose(jax_measure.totals([array], p), exact, rtol=1e-6)


@pytest.mark.parametrize("factor", [0.3, 1.0, 0.0, 1e-30, 2e-39, 1e-60, -0.7])
def test_a_product_in_float32_is_that_in_float64(factor):
    """Each of the two is off by half a step of 2^-23, and the factor by another. 1e-38 is no normal number."""
    array = jnp.asarray(np.random.default_rng(0).standard_normal((50, 7)) * 1e37, jnp.float32)
    exact = jax_scale._exact(array, jnp.asarray(factor, jnp.float64))
    (quick,) = jax_scale.scaled([array], jnp.asarray([factor], jnp.float64), enlarges=False)
    np.testing.assert_allclose(quick, exact, rtol=3 * 2.0**-24, atol=1.2e-38)


@pytest.mark.parametrize("donated", [False, True])
@pytest.mark.parametrize("after", [optax.identity(), optax.sgd(0.1)], ids=["alone", "before SGD"])
@pytest.mark.parametrize("rule", [ClipGradByGlobalNorm(1.0), ClipGradByValue(0.5), ClipGradByNorm(1.0)], ids=repr)
def test_an_array_is_written_once_and_where_it_lies(rule, after, donated):
    """By the program that XLA makes: one expression writes, that of the optimizer too, and nothing is copied."""
    array = jnp.ones((64, 256), jnp.float32)
    tx = optax.chain(gradclip.optax.clip(rule), after)
    jitted = jax.jit(tx.update, donate_argnums=0 if donated else ())
    program = jitted.lower({"w": array}, tx.init({"w": array})).compile().as_text()
    main = program[program.index("ENTRY") :]
    assert "64,256]{1,0} copy(" not in main
    assert len(re.findall(r"= f32\[64,256\]\S* fusion\(", main)) == 1


@pytest.mark.parametrize(("scope", "totals"), [(Row(), [8.0] * 3), (Row(0), [12.0] * 2), (Row(-3), [6.0] * 4)])
def test_rows_lie_along_the_last_axis_unless_another_is_named(scope, totals):
    """flax keeps the kernel of a convolution (height, width, in, out)."""
    slots = [Slot(jnp.ones((2, 4, 1, 3))), Slot(jnp.ones(5))]
    batch = JAX.gather(slots)
    assert JAX.measure(batch, scope, L2()).total.tolist() == [*totals, 5.0]
    assert JAX.shapes(batch, scope)[0][0] == len(totals)
    factors = 0.5 ** np.arange(len(totals) + 1)
    JAX.apply_(batch, scope, jnp.asarray(factors))
    axis = 3 if scope.axis is None else scope.axis % 4
    expected = np.ones((2, 4, 1, 3)) * factors[:-1].reshape([-1 if place == axis else 1 for place in range(4)])
    np.testing.assert_array_equal(slots[0].value, expected)
    np.testing.assert_array_equal(slots[1].value, np.full(5, factors[-1]))


def test_a_coefficient_beyond_float32_is_applied():
    slots = [Slot(jnp.asarray([3e38, 3e38], jnp.float32))]
    JAX.apply_(JAX.gather(slots), Global(), jnp.asarray([1e-39]))
    np.testing.assert_allclose(slots[0].value, [0.3, 0.3], rtol=1e-6)


def test_it_asks_for_float64_instead_of_rounding_silently():
    with jax.enable_x64(False), pytest.raises(RuntimeError, match="enable_x64"):
        JAX.gather([Slot(jnp.ones(2))])


def test_a_function_in_float64_is_differentiated_in_float64():
    """The derivative of a maximum of float64 cannot be made where JAX is limited to 32 bits."""

    def largest(x):
        return jnp.max(x.astype(jnp.float64) ** 2)

    with jax.enable_x64(False):
        derivative = jax.grad(jax.jit(lambda x: in_float64(largest)(x).astype(jnp.float32)))
        assert derivative(jnp.array([1.0, -3.0])).tolist() == [0.0, -6.0]


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64])
def test_by_value_denormal_numbers_are_compared_as_numbers(dtype):
    """XLA on a CPU takes them for zero, which is below every bound."""
    step = float(jnp.finfo(dtype).smallest_subnormal)
    limit = 16 * step
    given = [64 * step, -64 * step, limit / 2, -0.0, np.nan, np.inf, -np.inf, 1.0]
    x = jnp.asarray(np.asarray(given).astype(dtype))
    found = np.asarray(jax_scale.bounded(x, -limit, limit)).astype(np.float64)
    kept = np.asarray(x[2]).astype(np.float64)
    assert [float(found[place]) for place in (0, 1, 5, 6, 7)] == [limit, -limit, limit, -limit, limit]
    assert found[2] == kept == limit / 2
    assert np.isnan(found[4])
    assert np.signbit(found[3])
