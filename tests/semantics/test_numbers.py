"""Numbers: what clipping does to PyTorch tensors, against float64.

A norm is right to 1e-6 relative. A clipped fp16 or bf16 element is rounded once, to half a step: 2^-11 and 2^-8.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from doors import exact, parameter, true_norm, written
from gradclip import (
    L1,
    AutoClip,
    ClipGradByGlobalNorm,
    ClipGradByNorm,
    ClipGradByValue,
    Constant,
    Global,
    Linf,
    Lp,
    Rule,
    ZClip,
    Zero,
)
from gradclip.torch import Clipper

HALF_STEP = {torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8, torch.float32: 2.0**-24, torch.float64: 2.0**-53}
SMALLEST = {torch.float16: 2.0**-24, torch.bfloat16: 2.0**-133, torch.float32: 2.0**-149, torch.float64: 0.0}


def clipped_as_in_float64(door, parameters, limit=1.0, p=2.0):
    """Both doors give the fp64 norm and the fp64 result, up to the rounding of the dtype."""
    before = exact(*parameters)
    norm = true_norm(before, p)
    kept = [q.grad.clone() for q in parameters]
    result = door.clip_(parameters, ClipGradByGlobalNorm(limit, p))
    assert result.norm_before == pytest.approx(norm, rel=1e-6)
    assert_scaled(parameters, before * min(1.0, limit / norm))
    for q, gradient in zip(parameters, kept, strict=True):
        q.grad = gradient
    returned = door.clip_grad_norm_(parameters, limit, p)
    assert float(returned) == pytest.approx(norm, rel=1e-6)
    assert_scaled(parameters, before * min(1.0, limit / norm))


def assert_scaled(parameters, expected):
    dtypes = {q.grad.dtype for q in parameters}
    rtol = 1e-6 + 2.0**-23 + max(HALF_STEP[dtype] for dtype in dtypes)
    np.testing.assert_allclose(exact(*parameters), expected, rtol=rtol, atol=max(SMALLEST[d] for d in dtypes))


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0, 0.5, math.inf])
def test_an_fp16_norm_beyond_fp16_is_right_and_the_gradient_survives(door, p):
    clipped_as_in_float64(door, [parameter(6e4, 6e4, 6e4, 6e4, dtype=torch.float16)], p=p)


def test_an_fp16_norm_of_1e5_over_two_tensors_is_right(door):
    half = [parameter(*[6e4, -4e4], dtype=torch.float16) for _ in range(2)]
    clipped_as_in_float64(door, half)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [1e25, 1e-25])
@pytest.mark.parametrize("p", [1.0, 2.0, 3.0, 0.5, math.inf])
def test_squares_beyond_fp32_do_not_spoil_the_norm(door, dtype, size, p):
    tensors = [parameter(*[size, -2 * size] * 9, dtype=dtype), parameter(3 * size, dtype=dtype)]
    clipped_as_in_float64(door, tensors, limit=size / 100, p=p)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_smallest_and_the_largest_numbers_are_measured_together(door, dtype):
    clipped_as_in_float64(door, [parameter(1e-40, 3e38, dtype=dtype), parameter(3e38, 0.0, dtype=dtype)])


def test_denormals_alone_are_measured(door):
    clipped_as_in_float64(door, [parameter(*[1e-41] * 300)], limit=1e-42)


def test_fifty_million_elements_are_measured_to_1e_6(door):
    """The expected norm is that of the block, repeated: sqrt(50) times the fp64 norm of a million elements."""
    block = torch.randn(1_000_000, generator=torch.Generator().manual_seed(0))
    expected = math.sqrt(50) * true_norm(block.double().numpy())
    big = parameter(grad=block.repeat(50))
    assert float(door.get_total_norm([big.grad])) == pytest.approx(expected, rel=1e-6)
    assert float(door.clip_grad_norm_([big], 1.0)) == pytest.approx(expected, rel=1e-6)
    assert float(door.get_total_norm([big.grad])) == pytest.approx(1.0, rel=1e-6)


def test_fp64_gradients_whose_squares_leave_fp64_are_clipped(door):
    p = parameter(3e200, 4e200, dtype=torch.float64)
    result = door.clip_([p])
    assert (result.norm_before, result.nonfinite) == (pytest.approx(5e200, rel=1e-15), 0)
    assert p.grad.tolist() == pytest.approx([0.6, 0.8], rel=1e-15)


def test_a_norm_that_fp64_cannot_hold_is_infinite_and_clipped_all_the_same(door):
    """sqrt(4) times 1.7e308 is 3.4e308."""
    p = parameter(*[1.7e308] * 4, dtype=torch.float64)
    result = door.clip_([p])
    assert (result.norm_before, result.nonfinite) == (math.inf, 0)
    assert (result.norm_after, result.segments[0].norm_after) == (1.0, 1.0)
    assert p.grad.tolist() == pytest.approx([0.5] * 4, rel=1e-14)


@pytest.mark.parametrize("limit", [1.0, 10.0, 1.7e308])
def test_an_all_zero_fp64_gradient_is_an_ordinary_one(door, limit, recwarn):
    p = parameter(0.0, 0.0, dtype=torch.float64)
    assert not door.clip_([p], ClipGradByNorm(limit)).clipped
    assert not [warning for warning in recwarn if issubclass(warning.category, RuntimeWarning)]


@pytest.mark.parametrize("rule", [AutoClip(50), ZClip()], ids=repr)
def test_a_spike_whose_square_leaves_fp64_is_clipped_and_not_learnt(rule):
    p = parameter(1.0, dtype=torch.float64)
    clipper = Clipper(rule)
    for value in [1.0] * 40 + [1e200, 1.0, 1.0]:
        p.grad.fill_(value)
        result = clipper.clip_([p])
        assert abs(p.grad.item()) <= 2.0
    assert result.threshold == pytest.approx(1.0, rel=0.5)


RULES_OF_EVERY_SCOPE = [ClipGradByGlobalNorm, ClipGradByNorm, ClipGradByValue, lambda t: Rule(threshold=Constant(t))]


@pytest.mark.parametrize("dtype", HALF_STEP, ids=str)
@pytest.mark.parametrize("rule", RULES_OF_EVERY_SCOPE)
def test_below_the_limit_nothing_is_written(door, rule, dtype):
    p = parameter(0.3, -0.4, 0.0, -0.0, dtype=dtype)
    bits = p.grad.clone()
    assert not written(lambda: door.clip_([p], rule(0.75)), p.grad)
    assert torch.equal(p.grad, bits)
    assert torch.equal(torch.signbit(p.grad), torch.signbit(bits))


def test_the_drop_ins_write_nothing_below_the_limit(door):
    p = parameter(0.3, -0.4)
    assert not written(lambda: door.clip_grad_norm_([p], 0.75), p.grad)
    assert not written(lambda: door.clip_grad_value_([p], 0.75), p.grad)
    assert not written(lambda: door.clip_grads_with_norm_([p], 0.75, torch.tensor(0.5)), p.grad)


def test_a_norm_below_a_tiny_limit_is_not_shrunk_by_an_epsilon(door):
    p = parameter(1e-8)
    assert not written(lambda: door.clip_grad_norm_([p], 1e-7), p.grad)
    assert not written(lambda: door.clip_([p], ClipGradByGlobalNorm(1e-7)), p.grad)
    assert p.grad.item() == torch.tensor(1e-8).item()


def test_a_norm_above_a_tiny_limit_lands_on_it(door):
    clipped_as_in_float64(door, [parameter(3e-8, 4e-8)], limit=1e-8)


def test_a_norm_equal_to_the_limit_is_left_alone(door):
    p = parameter(3.0, 4.0)
    assert not written(lambda: door.clip_([p], ClipGradByGlobalNorm(5.0)), p.grad)
    assert not written(lambda: door.clip_grad_norm_([p], 5.0), p.grad)
    assert not written(lambda: door.clip_([p], Rule(threshold=Constant(5.0), response=Zero())), p.grad)


def test_in_a_step_that_clips_one_tensor_the_others_are_not_written(door):
    large, small = parameter(3.0, 4.0), parameter(0.3, 0.4)
    assert not written(lambda: door.clip_([large, small], ClipGradByNorm(1.0)), small.grad)
    assert large.grad.tolist() == pytest.approx([0.6, 0.8])


@pytest.mark.parametrize("limit", [None, math.inf])
@pytest.mark.parametrize("value", [1e25, 1.0, math.inf, math.nan])
def test_no_limit_measures_and_writes_nothing(door, limit, value):
    p = parameter(value, 2.0)
    assert not written(lambda: door.clip_grad_norm_([p], limit), p.grad)
    assert p.grad[1] == 2.0
    expected = true_norm(exact(p)) if math.isfinite(value) else value
    assert float(door.clip_grad_norm_([p], limit)) == pytest.approx(expected, rel=1e-6, nan_ok=True)


def test_a_rule_without_a_limit_measures_and_writes_nothing(door):
    p = parameter(1e25, -1e25)
    for rule in (ClipGradByGlobalNorm(None), ClipGradByNorm(math.inf)):
        assert not written(lambda rule=rule: door.clip_([p], rule), p.grad)
    assert door.clip_([p], ClipGradByGlobalNorm(None)).norm_before == pytest.approx(math.sqrt(2) * 1e25, rel=1e-6)


def test_a_coefficient_does_not_underflow_in_fp16(door):
    p = parameter(*[5000 / 300**0.5] * 300, dtype=torch.float16)
    before = exact(p)
    door.clip_grad_norm_([p], 1e-4)
    np.testing.assert_allclose(exact(p), before * 1e-4 / true_norm(before), atol=2.0**-25 * 1.01)
    assert (p.grad != 0).all()


def test_a_coefficient_below_fp32_does_not_underflow(door):
    p = parameter(3e38, 3e30)
    before = exact(p)
    door.clip_([p], ClipGradByGlobalNorm(1e-8))
    np.testing.assert_allclose(exact(p), before * 1e-8 / true_norm(before), rtol=1e-5, atol=2.0**-149)


def test_a_coefficient_above_fp32_does_not_overflow(door):
    from gradclip import Normalize

    p = parameter(1e-44, 0.0)
    door.clip_([p], Rule(Global(), threshold=Constant(0.5), response=Normalize()))
    assert p.grad.tolist() == pytest.approx([0.5, 0.0], rel=1e-6)


def test_a_coefficient_of_0_writes_zeros_over_infinity(door):
    broken, other = parameter(math.inf, 1.0), parameter(math.nan, -math.inf)
    door.clip_([broken, other], on_nonfinite="zero")
    assert broken.grad.tolist() == [0.0, 0.0]
    assert other.grad.tolist() == [0.0, 0.0]


def test_mixed_dtypes_are_measured_together_and_each_is_kept(door):
    dtypes = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    tensors = [parameter(6e4, 1.0, dtype=dtype) for dtype in dtypes]
    clipped_as_in_float64(door, tensors)
    assert [p.grad.dtype for p in tensors] == list(dtypes)


@pytest.mark.parametrize("dtype", HALF_STEP, ids=str)
def test_a_returned_norm_is_a_plain_scalar_of_fp32_or_wider(door, dtype):
    p = parameter(3.0, 4.0, dtype=dtype)
    for norm in (door.clip_grad_norm_([p], 10.0), door.get_total_norm([p.grad])):
        assert type(norm) is torch.Tensor
        assert norm.shape == ()
        assert not norm.requires_grad
        assert norm.dtype is (torch.float64 if dtype is torch.float64 else torch.float32)
        assert norm.item() == 5.0


def test_a_norm_beyond_fp32_is_returned_in_fp64(door):
    p = parameter(3e38, 3e38)
    norm = door.get_total_norm([p.grad])
    assert norm.dtype is torch.float64
    assert norm.item() == pytest.approx(true_norm(exact(p)), rel=1e-6)


@pytest.mark.parametrize("norm", [L1(), Linf(), Lp(3.0)], ids=str)
def test_other_norms_clip_to_their_limit(door, norm):
    p = parameter(3.0, -4.0, 12.0)
    door.clip_([p], Rule(Global(), norm, Constant(2.0)))
    assert true_norm(exact(p), norm.p) == pytest.approx(2.0, rel=1e-6)


@pytest.mark.parametrize("limit", [None, math.inf])
def test_a_known_norm_with_no_limit_writes_nothing(door, limit):
    p = parameter(3.0, 4.0)
    door.clip_grads_with_norm_([p], limit, torch.tensor(5.0))
    assert p.grad.tolist() == [3.0, 4.0]
