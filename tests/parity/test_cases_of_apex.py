"""What NVIDIA Apex's own tests ask of its clipping, by numbers in float64: Apex is not run.

Source: NVIDIA/apex, apex/contrib/test/clip_grad/test_clip_grad.py (ClipGradNormTest), tests/L0/run_amp/test_larc.py
(TestLARC) and, for the formula of LARC, apex/parallel/LARC.py. Apex's tests run on GPUs and compare with PyTorch; here
they run on the CPU, beside PyTorch and the truth. Tests called `test_differs_...` are listed in docs/peers.md.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import utils

import gradclip
from doors import exact, parameter, true_norm
from gradclip import L2, LARC, Normalize, Rule, Tensor, WeightRatio

LIMIT = 0.54321
FP16, FP32, FP64 = torch.float16, torch.float32, torch.float64
HALF_STEP = {FP16: 2.0**-11, FP32: 2.0**-24, FP64: 2.0**-53}


def drawn(count, dtypes, axes=(1, 2, 3)):
    """Parameters of one to three axes of one to five elements, with standard normal gradients; the same each time."""
    random = np.random.default_rng(1234)
    made = []
    for _ in range(count):
        shape = random.integers(1, 6, random.choice(axes))
        gradient = torch.tensor(random.standard_normal(shape), dtype=dtypes[random.integers(len(dtypes))])
        made.append(parameter(grad=gradient))
    return made


CASES = {
    "three dtypes": (41, (FP32, FP16, FP64), 2.0),
    "fp16": (11, (FP16,), 2.0),
    "fp32": (41, (FP32,), 2.0),
    "fp64": (41, (FP64,), 2.0),
    "the maximum": (41, (FP32, FP16, FP64), math.inf),
    "order 1": (41, (FP32, FP16, FP64), 1.0),
}


@pytest.mark.parametrize("name", CASES)
def test_the_norm_and_the_gradients_are_the_true_ones_and_those_of_pytorch(door, name):
    """Apex allows 1e-3 to PyTorch, whose norm of fp16 is fp16.

    The truth is nearer: 1e-6 for the norm, and half a step each for coefficient and product. An fp16 product below
    2^-14 has a fixed step instead, 2^-24.
    """
    count, dtypes, order = CASES[name]
    ours, theirs = drawn(count, dtypes), drawn(count, dtypes)
    before = [exact(p) for p in ours]
    norm = true_norm(np.concatenate(before), order)
    assert norm > LIMIT
    found = door.clip_grad_norm_(ours, LIMIT, norm_type=order).item()
    assert found == pytest.approx(norm, rel=1e-6)
    assert found == pytest.approx(utils.clip_grad_norm_(theirs, LIMIT, norm_type=order).item(), rel=1e-3)
    for p, q, gradient in zip(ours, theirs, before, strict=True):
        least = 2.0**-25 if p.dtype is FP16 else 0.0
        np.testing.assert_allclose(exact(p), gradient * (LIMIT / norm), rtol=1e-6 + 2 * HALF_STEP[p.dtype], atol=least)
        np.testing.assert_allclose(exact(p), exact(q), rtol=1e-3, atol=2.0**-24 if p.dtype is FP16 else 1e-20)
        assert not p.any()
        assert p.grad.dtype is p.dtype


def test_differs_no_epsilon_stands_beside_the_norm(door):
    """Apex and PyTorch divide by the norm and 1e-6, and to fp64's 1e-15 that is seen; the truth is without it."""
    ours, theirs = drawn(41, (FP64,)), drawn(41, (FP64,))
    before = exact(*ours)
    norm = true_norm(before)
    door.clip_grad_norm_(ours, LIMIT)
    utils.clip_grad_norm_(theirs, LIMIT)
    # A sum of n squares in float64 is right to n half steps, and a root halves that; 8 for what follows it.
    close = (before.size / 2 + 8) * 2.0**-53
    np.testing.assert_allclose(exact(*ours), before * (LIMIT / norm), rtol=close)
    np.testing.assert_allclose(exact(*theirs), before * (LIMIT / (norm + 1e-6)), rtol=close)
    assert np.abs(exact(*ours) / exact(*theirs) - 1).min() > 1e6 * 1e-15


def test_another_gradient_gives_another_norm(door):
    """That the comparison above can fail: one element differs, and with it norm and each gradient."""
    ours, others = drawn(7, (FP32,)), drawn(7, (FP32,))
    ours[0].grad.view(-1)[0], others[0].grad.view(-1)[0] = 1.23, 3.21
    norm, other = door.clip_grad_norm_(ours, LIMIT).item(), door.clip_grad_norm_(others, LIMIT).item()
    assert abs(norm / other - 1) > 1e-3
    assert np.abs(exact(*ours) / exact(*others) - 1).min() > 1e-3


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_non_finite_gradient_raises_where_that_is_asked_for(door, value):
    parameters = drawn(5, (FP32,), axes=(1,))
    parameters[2].grad[-1] = value
    before = [p.grad.clone() for p in parameters]
    with pytest.raises(RuntimeError, match="non-finite"):
        door.clip_grad_norm_(parameters, 1.0, error_if_nonfinite=True)
    assert all(torch.equal(p.grad.nan_to_num(7.0), g.nan_to_num(7.0)) for p, g in zip(parameters, before, strict=True))


def weighted(weights, gradient, dtype=torch.float32):
    p = torch.nn.Parameter(torch.tensor(weights, dtype=dtype))
    p.grad = torch.tensor(gradient, dtype=dtype)
    return p


def larc(weights, gradient, trust=0.02, lr=0.25, decay=0.0, clip=True):
    """The gradient that Apex's LARC leaves, its epsilon of 1e-8 left out."""
    weights, gradient = np.array(weights), np.array(gradient)
    if not weights.any() or not gradient.any():
        return gradient
    norms = np.linalg.norm(weights), np.linalg.norm(gradient)
    ratio = trust * norms[0] / (norms[1] + decay * norms[0])
    return (gradient + decay * weights) * (min(ratio / lr, 1.0) if clip else ratio)


LARC_CASES = {
    "of Apex": ([1.0, 2.0], [1.0, 1.0]),
    "not clipped": ([100.0, 200.0], [1.0, 1.0]),
    "weights of zero": ([0.0, 0.0], [1.0, 1.0]),
    "a gradient of zero": ([1.0, 2.0], [0.0, 0.0]),
}


@pytest.mark.parametrize("dtype", [FP16, FP32, FP64], ids=str)
@pytest.mark.parametrize("name", LARC_CASES)
def test_larc_leaves_the_gradient_of_its_formula(door, name, dtype):
    """Apex's test is that nothing fails in its four levels of precision: fp16 and fp32 weights."""
    weights, gradient = LARC_CASES[name]
    p = weighted(weights, gradient, dtype)
    door.clip_(p, LARC(0.02, lr=0.25))
    np.testing.assert_allclose(exact(p), larc(weights, gradient), rtol=1e-6 + 2 * HALF_STEP[dtype])


def test_larc_bounds_the_step_of_momentum_as_in_apex_test():
    """The weights [1, 2] and gradient [1, 1]: a step of 0.02 sqrt(5 / 2) for each element."""
    p = weighted([1.0, 2.0], [1.0, 1.0])
    optimizer = torch.optim.SGD([p], lr=0.25, momentum=0.125)
    gradclip.attach(optimizer, LARC(0.02, lr=0.25))
    optimizer.step()
    moved = 0.02 * 2.5**0.5
    # The weights round at half a step of float32 below 2, and the step at its own.
    assert p.tolist() == pytest.approx([1 - moved, 2 - moved], abs=1e-6 * moved + 2 * 2.0**-24)


@pytest.mark.parametrize("name", ["of Apex", "not clipped"])
def test_larc_that_scales_is_a_rule_of_the_same_parts(door, name):
    """Apex's clip=False multiplies by the ratio whatever it is."""
    weights, gradient = LARC_CASES[name]
    p = weighted(weights, gradient)
    door.clip_(p, Rule(Tensor(), L2(), WeightRatio(0.02), Normalize()))
    np.testing.assert_allclose(exact(p), larc(weights, gradient, clip=False), rtol=1e-6 + 2 * 2.0**-24)


def test_differs_weight_decay_stays_with_the_optimizer():
    """Apex takes it into the norm and the gradient; here the optimizer adds it to what was clipped."""
    weights, gradient, decay = [1.0, 2.0], [1.0, 1.0], 0.5
    p = weighted(weights, gradient)
    optimizer = torch.optim.SGD([p], lr=0.25, weight_decay=decay)
    gradclip.attach(optimizer, LARC(0.02, lr=0.25))
    optimizer.step()
    step = (np.array(weights) - p.detach().double().numpy()) / 0.25
    np.testing.assert_allclose(step, larc(weights, gradient) + decay * np.array(weights), rtol=4e-6)
    assert np.abs(step / larc(weights, gradient, decay=decay) - 1).min() > 1.0
