"""What PyTorch's own tests ask of its clipping, asked of the drop-ins.

Source: pytorch/pytorch, test/test_nn.py (test_clip_grad_norm, test_clip_grad_value,
test_clip_grad_norm_error_if_nonfinite, test_clip_grad_norm_multi_device) and test/cpp/api/nn_utils.cpp (ClipGradNorm,
ClipGradNormErrorIfNonfinite, ClipGradValue). Tests called `test_differs_...` are listed in docs/peers.md.
"""

from __future__ import annotations

import math
import warnings
from itertools import product

import numpy as np
import pytest
import torch
from torch.nn import utils

from doors import exact, parameter, true_norm

LIMIT = 2.0
ORDERS = [0.5, 1.5, 2, 4, "inf"]
# The norm is right to 1e-6; the coefficient and each product round once in float32. A norm is homogeneous, so a
# relative error of every element is at most the same error of the norm.
CLOSE = 1e-6 + 2 * 2.0**-24


def ramp():
    """The gradients of a layer 10 x 10: 1 to 100 for the weight, 1/1000 for the bias."""
    return [torch.arange(1.0, 101.0).reshape(10, 10), torch.full((10,), 1e-3)]


def small():
    """Gradients whose norm of every order is below the limit: (110 elements of 1/10^5)^(1/0.5) is 0.12."""
    return [torch.linspace(1e-7, 1e-5, 100).reshape(10, 10), torch.full((10,), 1e-5)]


def layer(gradients):
    return [parameter(grad=g.clone()) for g in gradients]


def truth(parameters, order):
    return true_norm(exact(*parameters), float(order))


def assert_one_scale(parameters, gradients):
    """Every element of the layer has the same factor; two roundings each in float32."""
    before = np.concatenate([g.double().numpy().ravel() for g in gradients])
    scales = exact(*parameters) / before
    np.testing.assert_allclose(scales, scales[0], rtol=4 * 2.0**-24)


def by_clip_grad_norm(door, parameters, order, foreach):
    return door.clip_grad_norm_(parameters, LIMIT, norm_type=order, foreach=foreach)


def in_two_calls(door, parameters, order, foreach):
    norm = door.get_total_norm([p.grad for p in parameters], norm_type=order, foreach=foreach)
    door.clip_grads_with_norm_(parameters, LIMIT, norm, foreach=foreach)
    return norm


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("clip", [by_clip_grad_norm, in_two_calls], ids=["at once", "in two calls"])
def test_a_large_norm_becomes_the_limit_by_one_factor(door, clip, order, foreach):
    parameters = layer(ramp())
    before = truth(parameters, order)
    assert clip(door, parameters, order, foreach).item() == pytest.approx(before, rel=1e-6)
    assert truth(parameters, order) == pytest.approx(LIMIT, rel=CLOSE)
    assert_one_scale(parameters, ramp())


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("clip", [by_clip_grad_norm, in_two_calls], ids=["at once", "in two calls"])
def test_small_gradients_stay_as_they_are(door, clip, order, foreach):
    parameters = layer(small())
    before = truth(parameters, order)
    assert before < LIMIT
    assert clip(door, parameters, order, foreach).item() == pytest.approx(before, rel=1e-6)
    assert all(torch.equal(p.grad, g) for p, g in zip(parameters, small(), strict=True))


@pytest.mark.parametrize("order", ORDERS)
def test_one_tensor_is_clipped_as_a_list_of_one(door, order):
    (alone,), (listed,) = layer(ramp()[:1]), layer(ramp()[:1])
    door.clip_grad_norm_(alone, LIMIT, norm_type=order)
    door.clip_grad_norm_([listed], LIMIT, norm_type=order)
    assert torch.equal(alone.grad, listed.grad)
    assert truth([alone], order) == pytest.approx(LIMIT, rel=CLOSE)


@pytest.mark.parametrize("foreach", [False, True])
def test_a_generator_that_was_read_before_gives_one_warning(door, foreach):
    model = torch.nn.Linear(10, 10)
    used = model.parameters()
    assert len(list(used)) == 2
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        door.clip_grad_norm_(used, LIMIT, foreach=foreach)
    message = "`parameters` is an empty generator, no gradient clipping will occur."
    assert [str(w.message) for w in seen] == [message]


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("bias", [torch.full((10,), 2.0), None], ids=["both", "no gradient of the bias"])
def test_by_value_each_element_is_inside_the_bounds(door, bias, foreach):
    """Bit for bit as PyTorch does it."""
    weight = torch.arange(-50.0, 50.0).reshape(10, 10) / 5
    ours, theirs = (layer([weight, torch.zeros(10) if bias is None else bias]) for _ in range(2))
    if bias is None:
        ours[1].grad = theirs[1].grad = None
    door.clip_grad_value_(ours, 2.5, foreach=foreach)
    utils.clip_grad_value_(theirs, 2.5, foreach=foreach)
    assert ours[0].grad.abs().max().item() == 2.5
    for one, other in zip(ours, theirs, strict=True):
        assert one.grad is other.grad is None or torch.equal(one.grad, other.grad)


def test_by_value_one_tensor_is_clipped_as_a_list_of_one(door):
    weight = torch.arange(-50.0, 50.0).reshape(10, 10) / 5
    (alone,), (listed,) = layer([weight]), layer([weight])
    door.clip_grad_value_(alone, 2.5)
    door.clip_grad_value_([listed], 2.5)
    assert torch.equal(alone.grad, listed.grad)
    assert alone.grad.abs().max().item() == 2.5


POSITIVE = [0.1, 1.0, 2.0, 3.5, math.inf]
NEGATIVE = [-0.1, -1.0, -2.0, -3.5]
SHAPES = list(product([False, True], [False, True]))
"""Whether only one of the ten elements has the number, and whether a parameter with a gradient of 1 stands in front."""
RAISING = {
    "infinity": ([math.inf, -math.inf], POSITIVE),
    "NaN": ([math.nan], POSITIVE),
    "2e22": ([2e22, -2e22], []),
    "2e200": ([2e200, -2e200], [2.0, 3.5]),
}
"""Numbers, and the orders above 0 whose norm PyTorch's tests take for non-finite: ten parameters of float64."""


def with_number(number, only_one, prefixed):
    gradient = torch.full((10,), number, dtype=torch.float64)
    if only_one:
        gradient = torch.zeros(10, dtype=torch.float64)
        gradient[1] = number
    front = [parameter(1.0, dtype=torch.float64)] if prefixed else []
    return [*front, parameter(grad=gradient)]


def raised(module, parameters, order, error_if_nonfinite=True):
    """Whether the call raised, and left the gradients as they were where it did."""
    before = [p.grad.clone() for p in parameters]
    try:
        module.clip_grad_norm_(parameters, 1.0, order, error_if_nonfinite=error_if_nonfinite)
    except RuntimeError:
        for p, g in zip(parameters, before, strict=True):
            assert torch.equal(torch.nan_to_num(p.grad, 7.0), torch.nan_to_num(g, 7.0))
        return True
    return False


@pytest.mark.parametrize(("only_one", "prefixed"), SHAPES)
@pytest.mark.parametrize("name", ["infinity", "NaN", "2e22"])
def test_error_if_nonfinite_raises_where_the_norm_is_non_finite(door, name, only_one, prefixed):
    numbers, orders = RAISING[name]
    for number, order in product(numbers, POSITIVE):
        for module in (door, utils):
            assert raised(module, with_number(number, only_one, prefixed), order) == (order in orders), order
            assert not raised(module, with_number(number, only_one, prefixed), order, error_if_nonfinite=False)


@pytest.mark.parametrize(("only_one", "prefixed"), SHAPES)
def test_differs_a_norm_that_float64_holds_does_not_raise(door, only_one, prefixed):
    """Squares of 2e200 leave float64 and their root does not; the norm of 10 elements, order 0.1, is 2e210."""
    numbers, orders = RAISING["2e200"]
    for number, order in product(numbers, POSITIVE):
        assert raised(utils, with_number(number, only_one, prefixed), order) == (order in orders), order
        ours = with_number(number, only_one, prefixed)
        assert not raised(door, ours, order), order
        assert truth(ours, order) == pytest.approx(1.0, rel=CLOSE)


@pytest.mark.parametrize("order", [0.0, *NEGATIVE])
def test_differs_orders_that_are_no_norms_are_refused(door, order):
    ours, theirs = with_number(3.0, True, True), with_number(3.0, True, True)
    assert not raised(utils, theirs, order)
    with pytest.raises(ValueError, match=r"the order of a norm lies in \[0.1, inf\]"):
        door.clip_grad_norm_(ours, 1.0, order, error_if_nonfinite=True)
    assert [p.grad.abs().max().item() for p in ours] == [1.0, 3.0]
