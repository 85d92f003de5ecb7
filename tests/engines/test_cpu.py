"""The CPU engine against fp64 truth, computed here and in another way."""

import copy
import math
import os
import pickle
import signal
import threading
import time
from functools import lru_cache
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("numba")

from gradclip.engines import cpu_layout as layout  # noqa: E402
from gradclip.engines import torch_layout  # noqa: E402
from gradclip.engines.base import Tables, UnsupportedGradient  # noqa: E402
from gradclip.engines.cpu import CpuEngine  # noqa: E402
from gradclip.rules.norm import L1, L2, RMS, Linf, Lp  # noqa: E402
from gradclip.rules.response import Normalize, Rescale, Smooth, Zero  # noqa: E402
from gradclip.rules.scope import Element, Global, Row, Tensor  # noqa: E402

ENGINE = CpuEngine(torch_layout)
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
# mantissa bits after the point, smallest exponent of a normal number
FORMATS = {torch.float16: (10, -14), torch.bfloat16: (7, -126), torch.float32: (23, -126), torch.float64: (52, -1022)}
# The derived bound for sums in cpu_kernels.square_blocks is 2.4e-7 of the norm, for magnitudes 4.2e-7; fp64 adds 1e-11.
TOLERANCE = 5e-7


# `**` takes a hundred times as long of long doubles.
POWERS = {0.5: np.sqrt, 1: np.positive, 2: np.square, 3: lambda x: x * x * x}
ROOTS = {0.5: np.square, 1: np.positive, 2: np.sqrt, 3: np.cbrt}


def values(tensor):
    return tensor.detach().double().numpy().ravel()


def norm_of(x, p):
    """The p-norm in long double, with the peak taken out."""
    return norms_of_rows(np.asarray(x).reshape(1, -1), p)[0]


def norms_of_rows(x, p):
    """The same of each row of a matrix."""
    x = np.abs(np.asarray(x, np.longdouble))
    peak = x.max(axis=1, initial=0)
    if math.isinf(p):
        return peak.astype(float).tolist()
    parts = x / np.where(peak > 0, peak, 1)[:, None]
    return (peak * ROOTS[p](np.sum(POWERS[p](parts), axis=1))).astype(float).tolist()


def measured(tensors, scope, norm, engine=ENGINE):
    found = engine.measure(engine.gather(tensors), scope, norm)
    finish = found.total if norm.combine == "max" else np.asarray(found.total) ** (1 / norm.p)
    return np.asarray(found.scale * finish), np.asarray(found.nonfinite)


def segments_of(tensor, scope):
    """An array whose first axis is that of the segments."""
    return rows_of(tensor.detach().double().numpy(), scope)


def rows_of(x, scope):
    """The same of an array."""
    if not isinstance(scope, Row) or x.ndim < 2:
        return x[None]
    axes = scope.axis if isinstance(scope.axis, tuple) else (scope.axis or 0,)
    in_front = np.moveaxis(x, axes, range(len(axes)))
    rest = in_front.shape[len(axes) :]
    return in_front.reshape(math.prod(in_front.shape[: len(axes)]), *rest)


def norms(tensors, scope, p):
    if isinstance(scope, Global):
        return [norm_of(np.concatenate([values(t) for t in tensors]), p)]
    segments = (segments_of(tensor, scope) for tensor in tensors)
    return [norm for rows in segments for norm in norms_of_rows(rows.reshape(len(rows), math.prod(rows.shape[1:])), p)]


def ulp(truth, dtype):
    bits, lowest = FORMATS[dtype]
    exponent = np.floor(np.log2(np.maximum(np.abs(truth), 2.0**lowest)))
    return 2.0 ** (np.maximum(exponent, lowest) - bits)


def assert_within(tensor, truth, ulps):
    got, truth = values(tensor), np.asarray(truth).ravel()
    top = torch.finfo(tensor.dtype).max
    fits = np.abs(truth) <= top
    np.testing.assert_array_less(
        np.abs(got[fits] - truth[fits]), ulps * ulp(truth[fits], tensor.dtype) * (1 + 1e-12) + 1e-323
    )
    assert np.all(np.abs(got[~fits]) >= top * (1 - 2**-7))
    assert np.all(np.sign(got[~fits]) == np.sign(truth[~fits]))


@lru_cache(256)
def normal_numbers(shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def noise(*shape, dtype=torch.float32, seed=0, scale=1.0):
    return (normal_numbers(shape, seed) * scale).to(dtype)


def mixed_batch(dtype=torch.float32):
    shapes = [(300, 100), (7,), (), (0, 3), (3, 0), (5, 70000), (2, 3, 4), (129, 1000), (0,), (1, 9), (65537,)]
    return [noise(*shape, dtype=dtype, seed=i) for i, shape in enumerate(shapes)]


@lru_cache(1)
def powers_of_the_mixed_batch(dtype, p):
    """The powers of all elements in long double, of ordinary numbers and so without the peak taken out.

    They are the same for L2 and RMS and at each scope, one test after the other.
    """
    sizes = (np.abs(tensor.double().numpy().astype(np.longdouble)) for tensor in mixed_batch(dtype))
    return [size if math.isinf(p) else POWERS[p](size) for size in sizes]


def norms_of_the_mixed_batch(dtype, scope, p):
    powers = powers_of_the_mixed_batch(dtype, p)
    lots = [np.concatenate([power.ravel() for power in powers])] if isinstance(scope, Global) else powers
    every = [rows.reshape(len(rows), math.prod(rows.shape[1:])) for rows in (rows_of(lot, scope) for lot in lots)]
    if math.isinf(p):
        return np.concatenate([rows.max(axis=1, initial=0) for rows in every]).astype(float)
    return ROOTS[p](np.concatenate([rows.sum(axis=1) for rows in every])).astype(float)


@pytest.mark.parametrize("scope", [Global(), Tensor(), Row(), Row(1), Row(-1), Row((0, 1)), Row((-2, -1))], ids=repr)
@pytest.mark.parametrize("norm", [L2(), RMS(), L1(), Linf(), Lp(3.0), Lp(0.5)], ids=repr)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_each_norm_at_each_scope(scope, norm, dtype):
    tensors = mixed_batch(dtype)
    got, nonfinite = measured(tensors, scope, norm)
    np.testing.assert_allclose(np.atleast_1d(got), norms_of_the_mixed_batch(dtype, scope, norm.p), rtol=TOLERANCE)
    assert not np.any(nonfinite)
    if isinstance(scope, Global):
        assert type(ENGINE.measure(ENGINE.gather(tensors), scope, norm).total) is float


EXTREME = {
    "1e25": lambda n: noise(n, scale=1e25),
    "1e-25": lambda n: noise(n, scale=1e-25),
    "3e38": lambda n: torch.full((n,), 3e38),
    "denormal": lambda n: torch.full((n,), 1.4e-45),
    "one tiny": lambda n: torch.cat([torch.zeros(n - 1), torch.tensor([1e-40])]),
    "huge and tiny": lambda n: torch.where(torch.arange(n) % 997 == 0, 3e38, 1e-38),
    "edge of fp32 squares": lambda n: torch.full((n,), 1.8e19),
    "edge of the rescue": lambda n: torch.full((n,), 1e-15),
    "zeros": torch.zeros,
    "negative zeros": lambda n: -torch.zeros(n),
    "bf16 huge": lambda n: torch.full((n,), 3e38).bfloat16(),
    "bf16 tiny": lambda n: torch.full((n,), 1e-39).bfloat16(),
    "fp16 near its top": lambda n: torch.full((n,), 65504.0).half(),
    "fp16 denormal": lambda n: torch.full((n,), 6e-8).half(),
}


@pytest.mark.parametrize("norm", [L2(), L1(), Linf(), Lp(3.0)], ids=repr)
@pytest.mark.parametrize("count", [2, 700, 70000])
@pytest.mark.parametrize("name", EXTREME)
def test_every_finite_input_has_a_right_and_finite_norm(name, count, norm):
    tensor = EXTREME[name](count)
    got, nonfinite = measured([tensor], Global(), norm)
    np.testing.assert_allclose(got, norm_of(values(tensor), norm.p), rtol=TOLERANCE)
    assert nonfinite == 0


def test_squares_above_fp64_are_summed_in_units_of_the_largest_element():
    found = ENGINE.measure(ENGINE.gather([torch.full((900,), 1e200, dtype=torch.float64)]), Global(), L2())
    assert (found.total, found.scale, found.nonfinite) == (900.0, 1e200, 0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("skip", [0, 1, 3])
def test_odd_lengths_and_slices_off_alignment(dtype, skip):
    base = noise(600 + skip, dtype=dtype)
    for length in [*range(2, 71), 255, 256, 257, 511, 513]:
        tensor = base[skip : skip + length].clone() if skip == 0 else base[skip : skip + length]
        for norm in (L2(), L1(), Linf()):
            np.testing.assert_allclose(
                measured([tensor], Global(), norm)[0], norm_of(values(tensor), norm.p), rtol=TOLERANCE
            )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("scope", [Global(), Tensor(), Row(), Element()], ids=repr)
def test_nonfinite_elements_are_counted_exactly(scope, dtype):
    tensors = mixed_batch(dtype)
    tensors[0][3, 5:9] = torch.tensor([math.inf, -math.inf, math.nan, -math.nan])
    tensors[5][2, 69999] = math.nan
    tensors[5][4, ::7] = math.inf
    if isinstance(scope, Element):
        wanted = [n for t in tensors for n in (int((~torch.isfinite(t)).sum()), 0)]
    else:
        wanted = [int(np.count_nonzero(~np.isfinite(s))) for t in tensors for s in segments_of(t, scope)]
    wanted = sum(wanted) if isinstance(scope, Global) else wanted
    for norm in [Linf()] if isinstance(scope, Element) else [L2(), L1(), Linf(), Lp(3.0)]:
        found = ENGINE.measure(ENGINE.gather(tensors), scope, norm)
        np.testing.assert_array_equal(found.nonfinite, wanted)


def peaks_of(tensor):
    x = values(tensor)
    x = x[np.isfinite(x)]
    return [x.max(initial=0.0), (-x).max(initial=0.0)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_element_measures_the_peaks_of_both_signs_over_finite_elements(dtype):
    tensors = mixed_batch(dtype)
    tensors += [noise(50, dtype=dtype).abs(), -noise(50, dtype=dtype).abs(), torch.zeros(3, dtype=dtype)]
    tensors[0][0, 0], tensors[0][0, 1] = math.inf, math.nan
    found = ENGINE.measure(ENGINE.gather(tensors), Element(), Linf())
    np.testing.assert_array_equal(found.total, [peak for tensor in tensors for peak in peaks_of(tensor)])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("coefficient", [0.3, 0.9999, 1e-3, 7.0, 1e-37, 1e-45])
def test_scaling_is_right_to_the_last_place(coefficient, dtype):
    top = torch.full((4,), torch.finfo(dtype).max, dtype=dtype)
    tensors = [noise(999, dtype=dtype), top, noise(3, 40, dtype=dtype)]
    with np.errstate(over="ignore"):
        wanted = [values(t) * coefficient for t in tensors]
    ENGINE.apply_(ENGINE.gather(tensors), Global(), coefficient)
    # fp32: the coefficient's rounding and the product's, 1/2 + 1/2 ulp and second order; below it one rounding in
    # practice, fp16 and bf16 add 2^-13 ulp from fp32; fp64: one.
    for tensor, truth in zip(tensors, wanted, strict=True):
        assert_within(tensor, truth, 2.0 if dtype is torch.float32 else 0.5 if dtype is torch.float64 else 1.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_halves_are_rounded_to_even(dtype):
    tensor = noise(5000, dtype=dtype)
    # The product is exact in fp32 and lies in the middle between two neighbours for every fourth element.
    wanted = (tensor.float() * 0.75).to(dtype)
    ENGINE.apply_(ENGINE.gather([tensor]), Global(), 0.75)
    assert torch.equal(tensor, wanted)


def test_a_coefficient_for_each_row_and_each_tensor():
    for scope in (Row(), Row(1), Row(-1), Row((0, 1)), Row((-2, -1)), Tensor()):
        tensors = mixed_batch()
        before = [tensor.clone() for tensor in tensors]
        sizes = [len(segments_of(t, scope)) for t in tensors]
        factors = np.where(np.arange(sum(sizes)) % 3 == 0, 1.0, 0.5 ** (np.arange(sum(sizes)) % 5))
        ENGINE.apply_(ENGINE.gather(tensors), scope, factors)
        own = np.split(factors, np.cumsum(sizes)[:-1])
        for tensor, old, c in zip(tensors, before, own, strict=True):
            parts, wholes = segments_of(tensor, scope), segments_of(old, scope)
            factor = c.reshape(-1, *[1] * (parts.ndim - 1))
            np.testing.assert_array_equal(parts, wholes * factor)  # powers of two: no rounding


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_coefficient_zero_writes_zeros_over_everything(dtype):
    tensor = torch.tensor([1.0, math.inf, -math.inf, math.nan, -2.0], dtype=dtype)
    ENGINE.apply_(ENGINE.gather([tensor]), Global(), 0.0)
    assert torch.equal(tensor, torch.zeros(5, dtype=dtype))


@pytest.mark.filterwarnings("ignore:The given buffer is not writable")
def test_what_does_not_change_is_not_written(tmp_path):
    """The memory is mapped read-only: a single store to it would end the process."""
    noise(20000).numpy().tofile(tmp_path / "gradient")
    tensor = torch.frombuffer(np.memmap(tmp_path / "gradient", np.float32, mode="r"), dtype=torch.float32)
    version = tensor._version
    batch = ENGINE.gather([tensor, tensor.view(2, -1)])
    ENGINE.measure(batch, Row(), L2())
    ENGINE.apply_(batch, Global(), 1.0)
    ENGINE.apply_(batch, Tensor(), np.ones(2))
    ENGINE.apply_(batch, Row(), np.ones(3))
    ENGINE.apply_(batch, Row(1), np.ones(10001))
    ENGINE.apply_(ENGINE.gather([tensor, torch.ones(3)]), Tensor(), np.array([1.0, 0.5]))
    ENGINE.clamp_(batch, -100.0, math.inf)
    ENGINE.map_(batch, Zero(), -100.0, 100.0)
    ENGINE.zero_nonfinite_(batch)
    assert tensor._version == version


def test_autograd_is_told_of_what_was_written_and_of_nothing_else():
    tensors = [torch.ones(4), torch.ones(4), torch.ones(2, 2)]
    ENGINE.apply_(ENGINE.gather(tensors), Tensor(), np.array([1.0, 0.5, 1.0]))
    assert [t._version for t in tensors] == [0, 1, 0]
    tensors[2][1, 1] = 5.0
    ENGINE.clamp_(ENGINE.gather(tensors), -2.0, 2.0)
    assert [t._version for t in tensors] == [0, 1, 2]


SPECIAL = [math.inf, -math.inf, math.nan, 0.0, -0.0, 1e-7, 2.0, -2.0]


def elementwise(x, response, low, high):
    """The law, elementwise, in fp64; for Rescale infinities go to the bound."""
    if isinstance(response, Rescale):
        return np.minimum(np.maximum(x, low), high)
    with np.errstate(all="ignore"):
        r = np.abs(x) / np.where(x > 0, high, -low)
        phi = {
            "reciprocal": lambda: 1 / (1 + r),
            "sqrt": lambda: 1 / np.sqrt(1 + r * r),
            "tanh": lambda: np.where(r > 0, np.tanh(r) / r, 1.0),
        }.get(getattr(response, "kind", None))
        if isinstance(response, Normalize):
            phi = lambda: np.where(r > 0, 1 / (r + response.epsilon), 1.0)  # noqa: E731
        if isinstance(response, Zero):
            phi = lambda: np.where(r > 1, 0.0, 1.0)  # noqa: E731
        return np.where(np.isfinite(x), x * phi(), x)


RESPONSES = [Rescale(), *(Smooth(kind) for kind in ("reciprocal", "sqrt", "tanh")), Normalize(0.5), Zero()]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("response", RESPONSES, ids=repr)
def test_elementwise_responses(response, dtype):
    tensors = [noise(9000, dtype=dtype), torch.tensor(SPECIAL, dtype=dtype), noise(1, dtype=dtype)]
    wanted = [elementwise(values(t), response, -0.6, 1.1) for t in tensors]
    ENGINE.map_(ENGINE.gather(tensors), response, -0.6, 1.1)
    for tensor, truth in zip(tensors, wanted, strict=True):
        finite = np.isfinite(truth)
        np.testing.assert_array_equal(values(tensor)[~finite], truth[~finite])
        # fp64: 2 ulp of libm's tanh, the division and the product; below fp64 there is one rounding, or two where
        # fp32 lies between
        assert_within(tensor.flatten()[torch.from_numpy(finite)], truth[finite], 6.0 if dtype is torch.float64 else 1.0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_fused_clamp_measures_what_was_and_writes_what_the_map_would(dtype):
    tensors = [noise(30000, dtype=dtype), torch.tensor(SPECIAL, dtype=dtype), noise(40000, dtype=dtype) / 100]
    before = ENGINE.measure(ENGINE.gather(tensors), Element(), Linf())
    mapped = [tensor.clone() for tensor in tensors]
    ENGINE.map_(ENGINE.gather(mapped), Rescale(), -0.7, 0.3)
    fused = ENGINE.clamp_(ENGINE.gather(tensors), -0.7, 0.3)
    np.testing.assert_array_equal(fused.total, before.total)
    np.testing.assert_array_equal(fused.nonfinite, before.nonfinite)
    for tensor, other in zip(tensors, mapped, strict=True):
        np.testing.assert_array_equal(values(tensor), values(other))
        np.testing.assert_array_equal(values(tensor), values(tensor.clamp(-0.7, 0.3)))


def test_nonfinite_elements_are_zeroed_and_the_rest_stays():
    z = torch.tensor([1 + 2j, complex(math.inf, 3), complex(4, math.nan)])
    tensors = [torch.tensor(SPECIAL), noise(9000), z]
    kept = tensors[1].clone()
    ENGINE.zero_nonfinite_(ENGINE.gather(tensors))
    assert torch.equal(tensors[0], torch.tensor([0.0, 0, 0, 0, -0.0, 1e-7, 2, -2]))
    assert torch.equal(tensors[1], kept)
    assert torch.equal(tensors[2], torch.tensor([1 + 2j, 0, 0]))


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
def test_gradients_that_are_not_plain_are_measured_and_written_through_their_payload():
    base = noise(6, 8)
    sparse = torch.sparse_coo_tensor([[2, 0]], noise(2, 3), (4, 3)).coalesce()
    tensors = [base.t(), noise(4, 4)[:, :2], noise(1).expand(5), noise(3, 3).requires_grad_(), sparse, torch.zeros(())]
    wanted = [tensor.detach().to_dense().clone() * 0.5 for tensor in tensors]
    got, _ = measured(tensors, Global(), L2())
    np.testing.assert_allclose(got, norm_of(np.concatenate([2 * values(w) for w in wanted]), 2), rtol=TOLERANCE)
    ENGINE.apply_(ENGINE.gather(tensors), Global(), 0.5)
    for tensor, truth in zip(tensors, wanted, strict=True):
        assert torch.equal(tensor.detach().to_dense(), truth)


def test_complex_gradients_by_norm_and_never_by_value():
    z = torch.complex(noise(4, 5), noise(4, 5, seed=1))
    size = z.abs().double().numpy()
    for norm in (L2(), L1(), Linf(), Lp(3.0)):
        got, _ = measured([z], Global(), norm)
        np.testing.assert_allclose(got, norm_of(size.ravel(), norm.p), rtol=TOLERANCE)
        got, _ = measured([z], Row(), norm)
        np.testing.assert_allclose(got, [norm_of(row, norm.p) for row in size], rtol=TOLERANCE)
    with pytest.raises(UnsupportedGradient, match="complex"):
        ENGINE.clamp_(ENGINE.gather([z]), -1.0, 1.0)


COLUMNS = [(100, 3), (64, 2000), (9, 70_000), (3, 5, 1500), (4, 6, 7), (5, 1), (1, 5), (2, 3, 0), (700, 2, 3)]
"""Wider than a block, runs longer than a chunk is worth, more lines than a chunk has, one row, one line, no element."""


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["1e25", "1e-25", "denormal", "zeros", "ordinary"])
def test_rows_that_lie_side_by_side_are_rescued_where_fp32_loses_them(name, dtype):
    """The size is that of one row of each tensor; the rows beside it are ordinary."""
    tensors = [noise(*shape, dtype=torch.float64, seed=i) for i, shape in enumerate(COLUMNS)]
    sizes = {"1e25": 1e25, "1e-25": 1e-25, "denormal": 1e-44, "zeros": 0.0, "ordinary": 1.0}
    for tensor in tensors:
        tensor[:, -1] *= sizes[name]
    top = torch.finfo(dtype).max
    tensors = [tensor.clamp(-top, top).to(dtype) for tensor in tensors]
    for norm in (L2(), L1(), Linf(), Lp(3.0)):
        got, nonfinite = measured(tensors, Row(1), norm)
        np.testing.assert_allclose(got, norms(tensors, Row(1), norm.p), rtol=TOLERANCE)
        assert not np.any(nonfinite)


@pytest.mark.parametrize("norm", [L2(), L1(), Linf(), Lp(3.0)], ids=repr)
def test_non_finite_elements_are_counted_in_the_row_that_they_are_in(norm):
    tensors = [noise(*shape, seed=i) for i, shape in enumerate(COLUMNS)]
    for tensor, bad in zip(tensors, (math.nan, math.inf, -math.inf, math.nan, math.inf), strict=False):
        tensor[-1, 1] = bad
    got, nonfinite = measured(tensors, Row(1), norm)
    expected = [np.count_nonzero(~np.isfinite(row)) for tensor in tensors for row in segments_of(tensor, Row(1))]
    np.testing.assert_array_equal(nonfinite, expected)
    np.testing.assert_array_equal(np.isfinite(got), np.array(expected) == 0)


@pytest.mark.parametrize("factor", [0.0, 0.3, 1e-40, 1e40])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_that_lie_side_by_side_are_scaled_as_fp64_would(dtype, factor):
    """Every second row; the others keep their bits, a NaN included."""
    tensors = [noise(*shape, dtype=dtype, seed=i, scale=1e-3) for i, shape in enumerate(COLUMNS)]
    for tensor in tensors:
        tensor[-1:, :1] = math.nan
    before = [tensor.clone() for tensor in tensors]
    ENGINE.apply_(
        ENGINE.gather(tensors),
        Row(1),
        np.concatenate([np.where(np.arange(tensor.shape[1]) % 2 == 1, factor, 1.0) for tensor in tensors]),
    )
    for tensor, old in zip(tensors, before, strict=True):
        integer = {2: torch.int16, 4: torch.int32, 8: torch.int64}[old.element_size()]
        assert torch.equal(tensor[:, ::2].contiguous().view(integer), old[:, ::2].contiguous().view(integer))
        assert_within(tensor[:, 1::2], values(old[:, 1::2]) * factor, 2.0)


@pytest.mark.parametrize("axis", [0, 1, 2, 3, (0, 1), (1, 2), (2, 3), (0, 1, 2), (1, 2, 3)])
def test_weights_in_another_order_of_memory_have_the_rows_of_their_axes(axis):
    """channels_last: axis 1 lies last in memory."""
    tensor = noise(6, 5, 4, 3).to(memory_format=torch.channels_last)
    old = tensor.clone()
    got, _ = measured([tensor], Row(axis), L2())
    np.testing.assert_allclose(got, norms([tensor], Row(axis), 2), rtol=TOLERANCE)
    shape = [size if place in np.atleast_1d(axis) else 1 for place, size in enumerate(tensor.shape)]
    factors = 0.5 ** (np.arange(math.prod(shape)) % 9)
    ENGINE.apply_(ENGINE.gather([tensor]), Row(axis), factors)
    assert torch.equal(tensor, old * torch.tensor(factors, dtype=torch.float32).reshape(shape))


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
def test_a_batch_may_be_measured_along_axes_that_another_order_of_memory_mixes(dtype):
    """channels_last: axes 0 and 1 have two others between them. What one scope writes, the next one reads."""
    tensor = torch.complex(noise(6, 5, 4, 3), noise(6, 5, 4, 3, seed=1)) if dtype.is_complex else noise(6, 5, 4, 3)
    tensor = tensor.to(memory_format=torch.channels_last)
    old, batch, sizes = tensor.clone(), ENGINE.gather([tensor]), tensor.abs()
    for norm in (L1(), L2()):
        for scope in (Row(0), Row((0, 1)), Row(1)):
            found = np.asarray(ENGINE.measure(batch, scope, norm).total) ** (1 / norm.p)
            np.testing.assert_allclose(found, norms([sizes], scope, norm.p), rtol=1e-6)
    ENGINE.apply_(batch, Row(0), np.full(6, 0.5))
    ENGINE.apply_(batch, Row((0, 1)), np.full(30, 0.25))
    assert torch.equal(tensor, old * 0.125)
    total = ENGINE.measure(batch, Tensor(), L2()).total[0]
    assert total == pytest.approx(sizes.double().square().sum().item() / 64, rel=1e-6)
    assert tensor.stride() == old.stride()


def test_a_tensor_without_the_axis_is_refused_with_its_place():
    batch = ENGINE.gather([noise(3), noise(2, 3, 4), noise(4, 5)])
    for verb in (lambda: ENGINE.measure(batch, Row(2), L2()), lambda: ENGINE.shapes(batch, Row(2))):
        with pytest.raises(UnsupportedGradient, match=r"shape \(4, 5\) has no axis 2") as caught:
            verb()
        assert caught.value.index == 2


def large_batch():
    return [
        noise(700, 1001, seed=1),
        noise(3000, 300, seed=3),
        noise(900000, seed=2).bfloat16(),
        *(noise(40, seed=i) for i in range(50)),
    ]


def test_the_result_does_not_depend_on_the_number_of_threads(monkeypatch):
    tensors = large_batch()
    totals = []
    for threads in (1, 2, 7):
        engine = CpuEngine(SimpleNamespace(**{**vars(torch_layout), "threads": lambda n=threads: n}))
        batch = engine.gather(tensors)
        rows = [engine.measure(batch, scope, L2()).total for scope in (Row(), Row(1))]
        totals.append([engine.measure(batch, Global(), L2()).total, *np.concatenate(rows)])
    assert totals[0] == totals[1] == totals[2]


def test_two_python_threads_may_clip_at_once():
    wrong = []

    def work(seed):
        tensors = [noise(n, seed=seed) for n in (400000, 33, 90)]
        truth = norm_of(np.concatenate([values(t) for t in tensors]), 2)
        for _ in range(60):
            got = measured(tensors, Global(), L2())[0]
            wrong.extend([] if abs(got / truth - 1) < TOLERANCE else [got])

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def test_batches_alive_at_the_same_time_do_not_share_memory():
    one, two = ENGINE.gather([torch.full((9,), 2.0)]), ENGINE.gather([torch.full((4,), 3.0)])
    assert ENGINE.measure(one, Global(), L2()).total == 36.0
    assert ENGINE.measure(two, Global(), L2()).total == 36.0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_works_alone_and_does_not_hang():
    tensors = large_batch()
    total = ENGINE.measure(ENGINE.gather(tensors), Global(), L2()).total
    child = os.fork()
    if child == 0:
        os._exit(0 if ENGINE.measure(ENGINE.gather(tensors), Global(), L2()).total == total else 1)
    for _ in range(200):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            assert os.waitstatus_to_exitcode(status) == 0
            return
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    pytest.fail("the child hangs")


shapes = st.lists(st.integers(0, 40), min_size=0, max_size=3).map(tuple)
magnitudes = st.sampled_from([1.0, 1e-3, 1e4, 1e25, 3e38, 1e-25, 1e-40])


parts = st.tuples(shapes, st.sampled_from(DTYPES), magnitudes, st.integers(0, 99))


def clipped_to_range(shape, dtype, scale, seed):
    top = torch.finfo(dtype).max
    return noise(*shape, dtype=torch.float64, seed=seed, scale=scale).clamp(-top, top).to(dtype)


@settings(max_examples=150, deadline=None)
@given(st.lists(parts, min_size=1, max_size=6), st.data())
def test_any_batch_is_measured_and_scaled_as_fp64_would(parts, data):
    tensors = [clipped_to_range(*part) for part in parts]
    scope = data.draw(st.sampled_from([Global(), Tensor(), Row(), Row(1), Row(-1), Row((-2, -1))]))
    norm = data.draw(st.sampled_from([L2(), L1(), Linf()]))
    got, nonfinite = measured(tensors, scope, norm)
    np.testing.assert_allclose(np.atleast_1d(got), norms(tensors, scope, norm.p), rtol=TOLERANCE)
    assert not np.any(nonfinite)
    wanted = [values(t) * 0.37 for t in tensors]
    ENGINE.apply_(ENGINE.gather(tensors), scope, 0.37 if isinstance(scope, Global) else np.full(len(got), 0.37))
    for tensor, truth in zip(tensors, wanted, strict=True):
        assert_within(tensor, truth, 2.0)


MEMORY = torch.arange(1.0, 25.0)
OTHER = torch.arange(3.0, 27.0)
STRUCTURES = [
    [MEMORY.view(4, 6), OTHER.view(6, 4)],
    [OTHER.view(4, 6), MEMORY.view(6, 4)],  # other memory
    [MEMORY.view(6, 4), OTHER.view(6, 4)],  # the same memory in another shape
    [MEMORY.view(4, 6, 1), OTHER.view(6, 4)],
    [MEMORY.view(4, 3, 2), OTHER.view(6, 4)],
    [MEMORY.view(4, 6).view(torch.float64), OTHER.view(6, 4)],  # and of another type
    [MEMORY.view(4, 6)],  # one less
    [MEMORY.view(4, 6), OTHER.view(6, 4), OTHER.view(4, 6)],  # one twice
    [MEMORY.view(4, 6), OTHER.view(6, 4).t()],  # not contiguous
    [MEMORY.view(4, 3, 2).chunk(2)[0], torch.view_as_complex(OTHER.view(12, 2))],
    [MEMORY.view(4, 6), OTHER.view(6, 4)],
]


def check_tables_follow_the_tensors(order):
    """What is kept of one batch is never that of another."""
    tables = Tables()
    for tensors in (STRUCTURES[place] for place in order):
        batch, fresh = ENGINE.gather(tensors, tables), CpuEngine(torch_layout).gather(tensors)
        assert ENGINE.repeated(batch) == ENGINE.repeated(fresh)
        for scope in (Global(), Tensor(), Row(), Row(-1)):
            found, expected = (ENGINE.measure(one, scope, L2()) for one in (batch, fresh))
            np.testing.assert_array_equal(found.total, expected.total)
        assert ENGINE.shapes(batch, Row(-1)) == ENGINE.shapes(fresh, Row(-1))
        del batch


@given(st.lists(st.integers(0, len(STRUCTURES) - 1), min_size=2, max_size=8))
@settings(max_examples=200, deadline=None)
def test_tables_follow_the_tensors(order):
    check_tables_follow_the_tensors(order)


def test_tables_of_the_same_tensors_are_cut_into_rows_once():
    tables, cut = Tables(), []
    for _ in range(3):
        batch = ENGINE.gather(STRUCTURES[0], tables)
        ENGINE.measure(batch, Row(), L2())
        cut.append(batch.table.rows[Row()])
        del batch
    assert cut[0] is cut[1] is cut[2]
    assert len(tables) == 1


def test_tables_of_another_framework_are_dropped_and_copies_begin_empty():
    tables = Tables()
    CpuEngine(torch_layout).gather(STRUCTURES[0], tables)
    assert tables
    assert (copy.deepcopy(tables), pickle.loads(pickle.dumps(tables))) == ([], [])
    batch = ENGINE.gather(STRUCTURES[0], tables)
    assert (tables, batch.table.owner) == ([], ENGINE._gather)


def test_a_new_table_believes_nothing_that_its_memory_held_before():
    """The memory of a table that is gone: the same tensors, cut into other rows."""
    tensors, tables = [torch.ones(4, 5), torch.ones(2, 3)], Tables()
    ENGINE.gather(tensors, tables)
    (table,) = tables
    table.spans[:2, layout.ROWS] = 3000
    table.words[layout.SPANS] = 0  # as in a new table
    assert ENGINE.measure(ENGINE.gather(tensors, tables), Row(), L2()).total.tolist() == [5.0] * 4 + [3.0] * 2
