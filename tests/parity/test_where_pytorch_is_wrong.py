"""Pins: what PyTorch 2.13 gets wrong, asserted as it is, beside what gradclip gives.

Where the first half of a test fails, PyTorch has changed: then the table in the documentation must change with it.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import utils

from doors import exact, parameter
from gradclip import GradclipWarning


def twins(*values, dtype=torch.float32):
    return parameter(*values, dtype=dtype), parameter(*values, dtype=dtype)


FINITE = {
    "fp16 with norm 1.2e5": ([6e4] * 4, torch.float16, 1.0),
    "fp32 elements of 1e25": ([1e25, 1e25], torch.float32, 1.0),
    "bf16 elements of 1e25": ([1e25, 1e25], torch.bfloat16, 1.0),
    "fp64 elements of 2e200": ([2e200, 2e200], torch.float64, 1.0),
}


@pytest.mark.parametrize("name", FINITE)
def test_a_finite_gradient_with_a_large_norm_becomes_0_in_pytorch(door, name):
    values, dtype, limit = FINITE[name]
    ours, theirs = twins(*values, dtype=dtype)
    assert utils.clip_grad_norm_([theirs], limit).item() == math.inf
    assert not theirs.grad.any()
    truth = math.hypot(*ours.grad.double().tolist())
    assert door.clip_grad_norm_([ours], limit).item() == pytest.approx(truth, rel=1e-6)
    assert torch.linalg.vector_norm(ours.grad.double()).item() == pytest.approx(limit, rel=2.0**-8)


def test_an_fp16_overflow_takes_the_fp32_gradients_with_it_in_pytorch(door):
    half, theirs = parameter(*[6e4] * 4, dtype=torch.float16), parameter(4e4)
    utils.clip_grad_norm_([half, theirs], 1.0)
    assert not theirs.grad.any()
    half, ours = parameter(*[6e4] * 4, dtype=torch.float16), parameter(4e4)
    door.clip_grad_norm_([half, ours], 1.0)
    assert ours.grad.item() == pytest.approx(4e4 / math.hypot(1.2e5, 4e4), rel=1e-6)


def test_a_coefficient_underflows_in_fp16_in_pytorch(door):
    values = [5000 / math.sqrt(300)] * 300
    ours, theirs = twins(*values, dtype=torch.float16)
    utils.clip_grad_norm_([theirs], 1e-4)
    assert not theirs.grad.any()
    door.clip_grad_norm_([ours], 1e-4)
    assert ours.grad.all()


def test_the_norm_of_small_gradients_is_0_in_pytorch(door):
    """And the epsilon, far above the norm, makes the coefficient so small that they become 0 too."""
    ours, theirs = twins(1e-25, 1e-25)
    assert utils.clip_grad_norm_([theirs], 1e-30).item() == 0.0
    assert not theirs.grad.any()
    assert door.clip_grad_norm_([ours], 1e-30).item() == pytest.approx(math.sqrt(2) * 1e-25, rel=1e-6)
    assert ours.grad.tolist() == pytest.approx([1e-30 / math.sqrt(2)] * 2, rel=1e-6)


def test_a_limit_of_infinity_makes_nan_in_pytorch(door):
    ours, theirs = twins(1e25, 1e25)
    utils.clip_grad_norm_([theirs], math.inf)
    assert theirs.grad.isnan().all()
    door.clip_grad_norm_([ours], math.inf)
    assert ours.grad.tolist() == pytest.approx([1e25, 1e25])


def test_a_negative_limit_turns_the_gradient_round_in_pytorch(door):
    ours, theirs = twins(3.0, 4.0)
    utils.clip_grad_norm_([theirs], -1.0)
    assert theirs.grad.tolist() == pytest.approx([-0.6, -0.8])
    with pytest.raises(ValueError, match="a negative threshold would turn the gradients round"):
        door.clip_grad_norm_([ours], -1.0)
    assert ours.grad.tolist() == [3.0, 4.0]


@pytest.mark.parametrize(("limit", "expected"), [(0.0, 0.0), (math.nan, math.nan), ("1.0", 1.0)])
def test_other_limits_that_make_no_sense_are_accepted_in_pytorch(door, limit, expected):
    ours, theirs = parameter(5.0), parameter(5.0)
    utils.clip_grad_norm_([theirs], limit)
    assert theirs.grad.item() == pytest.approx(expected, nan_ok=True, abs=1e-6)
    with pytest.raises((ValueError, TypeError), match="max_norm must be"):
        door.clip_grad_norm_([ours], limit)
    assert ours.grad.item() == 5.0


@pytest.mark.parametrize(("norm", "limit", "shrunk"), [(9e-7, 1e-6, 0.526), (1e-8, 1e-7, 0.099)])
def test_a_norm_below_the_limit_is_shrunk_in_pytorch(door, norm, limit, shrunk):
    ours, theirs = twins(norm)
    utils.clip_grad_norm_([theirs], limit)
    assert theirs.grad.item() == pytest.approx(shrunk * norm, rel=0.01)
    door.clip_grad_norm_([ours], limit)
    assert ours.grad.item() == torch.tensor(norm).item()


def test_a_parameter_given_twice_is_counted_and_scaled_twice_in_pytorch(door):
    ours, theirs = twins(3.0, 4.0)
    assert utils.clip_grad_norm_([theirs, theirs], 1.0).item() == pytest.approx(math.sqrt(50))
    assert theirs.grad.tolist() == pytest.approx([0.06, 0.08])
    assert door.clip_grad_norm_([ours, ours], 1.0).item() == 5.0
    assert ours.grad.tolist() == pytest.approx([0.6, 0.8])


def test_a_shared_gradient_is_counted_and_scaled_twice_in_pytorch(door):
    ours, theirs = twins(3.0, 4.0)
    other, another = parameter(0.0, 0.0), parameter(0.0, 0.0)
    other.grad, another.grad = theirs.grad, ours.grad
    utils.clip_grad_norm_([theirs, other], 1.0)
    assert theirs.grad.tolist() == pytest.approx([0.06, 0.08])
    door.clip_grad_norm_([ours, another], 1.0)
    assert ours.grad.tolist() == pytest.approx([0.6, 0.8])


def test_one_nan_makes_every_gradient_nan_in_pytorch(door):
    (ours, theirs), (others, other) = twins(math.nan, 2.0), twins(3.0)
    assert utils.clip_grad_norm_([theirs, other], 1.0).isnan()
    assert other.grad.isnan()
    assert door.clip_grad_norm_([ours, others], 1.0).isnan()
    assert others.grad.item() == 3.0


def test_one_infinity_makes_every_other_gradient_0_in_pytorch(door):
    (ours, theirs), (others, other) = twins(math.inf, 2.0), twins(3.0)
    assert utils.clip_grad_norm_([theirs, other], 1.0).item() == math.inf
    assert theirs.grad[0].isnan()
    assert other.grad.item() == 0.0
    assert door.clip_grad_norm_([ours, others], 1.0).item() == math.inf
    assert ours.grad.tolist() == [math.inf, 2.0]
    assert others.grad.item() == 3.0


@pytest.mark.parametrize("order", [-1.0, -math.inf, 0.0])
def test_orders_that_are_no_norms_are_accepted_in_pytorch(door, order):
    ours, theirs = twins(0.0, 400.0)
    utils.clip_grad_norm_([theirs], 1.5, order)
    assert theirs.grad[1].item() == 400.0
    with pytest.raises(ValueError, match="with them a single zero element would switch clipping off"):
        door.clip_grad_norm_([ours], 1.5, order)


def test_a_sparse_gradient_is_not_implemented_in_pytorch(door):
    p = parameter(grad=torch.sparse_coo_tensor([[1, 1]], [2.0, 3.0], (4,)))
    with pytest.raises(NotImplementedError):
        utils.clip_grad_norm_([p], 1.0)
    assert door.clip_grad_norm_([p], 1.0).item() == 5.0
    assert exact(p).tolist() == pytest.approx([0.0, 1.0, 0.0, 0.0])


def test_an_expanded_gradient_is_an_error_in_pytorch(door):
    theirs, ours = (parameter(grad=torch.ones(1).expand(4)) for _ in range(2))
    with pytest.raises(RuntimeError):
        utils.clip_grad_norm_([theirs], 1.0)
    door.clip_grad_norm_([ours], 1.0)
    assert ours.grad.tolist() == pytest.approx([0.5] * 4)


def test_an_empty_gradient_is_an_error_for_a_maximum_in_pytorch(door):
    p = parameter(grad=torch.zeros(0))
    with pytest.raises(RuntimeError):
        utils.clip_grad_norm_([p], 1.0, math.inf)
    assert door.clip_grad_norm_([p], 1.0, math.inf).item() == 0.0


def test_by_value_without_gradients_is_an_internal_error_in_pytorch(door):
    p = torch.nn.Parameter(torch.zeros(2))
    with pytest.raises(RuntimeError, match="nested_tensorlist"):
        utils.clip_grad_value_([p], 1.0)
    with pytest.warns(GradclipWarning, match="nothing is clipped"):
        door.clip_grad_value_([p], 1.0)


def test_a_negative_value_replaces_every_element_in_pytorch(door):
    ours, theirs = twins(0.5, -3.0)
    utils.clip_grad_value_([theirs], -1.0)
    assert theirs.grad.tolist() == [-1.0, -1.0]
    with pytest.raises(ValueError, match="clip_value must be above 0"):
        door.clip_grad_value_([ours], -1.0)
    assert ours.grad.tolist() == [0.5, -3.0]


def test_a_value_beyond_the_dtype_is_an_error_in_pytorch(door):
    ours, theirs = twins(3.0, dtype=torch.float16)
    with pytest.raises(RuntimeError, match="overflow"):
        utils.clip_grad_value_([theirs], 1e6)
    door.clip_grad_value_([ours], 1e6)
    assert ours.grad.item() == 3.0


def test_a_module_is_no_iterable_of_parameters_in_pytorch(door):
    model = torch.nn.Linear(1, 1, bias=False)
    model.weight.grad = torch.tensor([[5.0]])
    with pytest.raises(TypeError):
        utils.clip_grad_norm_(model, 1.0)
    assert door.clip_grad_norm_(model, 1.0).item() == 5.0


def test_a_total_norm_that_is_a_number_is_an_error_in_pytorch(door):
    ours, theirs = twins(3.0, 4.0)
    with pytest.raises(TypeError):
        utils.clip_grads_with_norm_([theirs], 1.0, 5.0)
    door.clip_grads_with_norm_([ours], 1.0, 5.0)
    assert ours.grad.tolist() == pytest.approx([0.6, 0.8])


def test_an_fp32_norm_over_many_elements_drifts_in_pytorch(door):
    """4e6 equal elements: the fp32 sum loses what lies below its last bit."""
    gradient = torch.full((4_000_000,), 1e-3)
    truth = 1e-3 * 2000.0
    assert abs(utils.get_total_norm([gradient]).item() / truth - 1) > 1e-5
    assert door.get_total_norm([gradient]).item() == pytest.approx(truth, rel=1e-6)


def test_a_bf16_norm_is_rounded_to_bf16_in_pytorch(door):
    gradient = torch.tensor([1.0, 0.05], dtype=torch.bfloat16)
    assert utils.get_total_norm([gradient]).item() == 1.0
    truth = math.hypot(1.0, float(gradient[1]))
    assert door.get_total_norm([gradient]).item() == pytest.approx(truth, rel=1e-6)
