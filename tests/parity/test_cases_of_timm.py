"""What timm's clipping does, by numbers in float64: timm is not run.

Source: huggingface/pytorch-image-models, timm/utils/agc.py (unitwise_norm, adaptive_clip_grad) and
timm/utils/clip_grad.py (dispatch_clip_grad). timm has no tests of them, so the formula is the case: a unit with the
norm n, of weights with the norm w, is multiplied by factor * max(w, eps) / max(n, 1e-6) unless n is below
factor * max(w, eps). Tests called `test_differs_...` are listed in docs/peers.md.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from doors import exact
from gradclip import AGC, ClipGradByGlobalNorm, ClipGradByValue, Rescale, Row, Rule, WeightRatio
from gradclip.rules.norm import norm_of_order

# The norms of weights and gradient are right to 1e-6 each; the coefficient and the product round once in float32.
CLOSE = 2e-6 + 2 * 2.0**-24
SHAPES = [(), (1,), (7,), (4, 3), (1, 5), (4, 3, 2), (4, 2, 3, 3), (3, 2, 2, 2, 2)]


def weighted(shape, size, seed=0):
    random = np.random.default_rng(seed)
    p = torch.nn.Parameter(torch.tensor(random.standard_normal(shape), dtype=torch.float32))
    p.grad = torch.tensor(size * random.standard_normal(shape), dtype=torch.float32)
    return p


def unit_norms(values, order):
    flat = values.reshape(values.shape[0], -1) if values.ndim > 1 else values.reshape(1, -1)
    norms = np.linalg.norm(flat, order, axis=1)
    return norms.reshape(-1, *[1] * (values.ndim - 1)) if values.ndim > 1 else norms[0]


def adapted(p, factor=0.01, eps=1e-3, order=2.0):
    """What timm leaves of the gradient."""
    weights, gradient = (t.detach().double().numpy() for t in (p, p.grad))
    limit, norm = factor * np.maximum(unit_norms(weights, order), eps), unit_norms(gradient, order)
    return np.where(norm < limit, gradient, gradient * (limit / np.maximum(norm, 1e-6)))


@pytest.mark.parametrize("size", [1e-3, 0.1, 100.0])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_adaptive_clipping_leaves_the_gradients_of_its_formula(door, shape, size):
    p = weighted(shape, size)
    expected = adapted(p)
    door.clip_([p], AGC())
    np.testing.assert_allclose(p.grad.double().numpy(), expected, rtol=CLOSE)


@pytest.mark.parametrize("order", [1.0, 3.0, math.inf])
def test_adaptive_clipping_by_another_norm_is_a_rule_of_the_same_parts(door, order):
    p = weighted((4, 3, 2), 1.0)
    expected = adapted(p, 0.1, order=order)
    door.clip_([p], Rule(Row(), norm_of_order(order), WeightRatio(0.1, 1e-3), Rescale()))
    np.testing.assert_allclose(p.grad.double().numpy(), expected, rtol=CLOSE)


@pytest.mark.parametrize("eps", [1e-3, 0.5])
def test_small_weights_count_as_eps(door, eps):
    p = weighted((4, 3), 1.0)
    with torch.no_grad():
        p[0] = 0.0
        p[1] *= 1e-5
    expected = adapted(p, 0.02, eps)
    door.clip_([p], AGC(0.02, floor=eps))
    np.testing.assert_allclose(p.grad.double().numpy(), expected, rtol=CLOSE)


def test_a_parameter_without_a_gradient_is_passed_over_and_one_tensor_is_a_list_of_one(door):
    alone, listed, without = weighted((4, 3), 1.0), weighted((4, 3), 1.0), weighted((2,), 1.0)
    without.grad = None
    expected = adapted(alone)
    door.clip_(alone, AGC())
    door.clip_([listed, without], AGC())
    np.testing.assert_allclose(exact(alone), expected.ravel(), rtol=CLOSE)
    assert torch.equal(alone.grad, listed.grad)


MODES = {
    "norm": (ClipGradByGlobalNorm(0.1), lambda p, gradient: gradient * (0.1 / np.linalg.norm(gradient))),
    "value": (ClipGradByValue(0.1), lambda p, gradient: np.clip(gradient, -np.float32(0.1), np.float32(0.1))),
    "agc": (AGC(0.1), lambda p, gradient: adapted(p, 0.1).ravel()),
}


@pytest.mark.parametrize("mode", MODES)
def test_each_mode_is_a_rule(door, mode):
    rule, expected = MODES[mode]
    p = weighted((4, 3), 1.0)
    wanted = expected(p, exact(p))
    door.clip_([p], rule)
    np.testing.assert_allclose(exact(p), wanted, rtol=CLOSE)


def test_differs_a_unit_below_1e_6_is_clipped_to_its_limit(door):
    """Weights of zero may have 1e-4 * 1e-3; timm takes a norm of 5e-7 for 1e-6, and leaves half of that."""
    p = torch.nn.Parameter(torch.zeros(2))
    p.grad = torch.tensor([3e-7, 4e-7])
    assert np.linalg.norm(adapted(p, 1e-4)) == pytest.approx(5e-8)
    door.clip_(p, AGC(1e-4))
    np.testing.assert_allclose(exact(p), [0.6e-7, 0.8e-7], rtol=CLOSE)


def test_differs_a_unit_that_is_not_finite_stays_as_it_is(door):
    """timm makes NaN of the whole unit of a NaN, and zeros around an infinity; here it can still be looked at."""
    p = weighted((2, 3), 1.0)
    p.grad[0, 0] = math.nan
    expected = adapted(p)
    assert np.isnan(expected[0]).all()
    row = p.grad[0].clone()
    with pytest.warns(Warning, match="non-finite"):
        door.clip_(p, AGC())
    assert torch.equal(p.grad[0].nan_to_num(7.0), row.nan_to_num(7.0))
    np.testing.assert_allclose(p.grad[1].double().numpy(), expected[1], rtol=CLOSE)
