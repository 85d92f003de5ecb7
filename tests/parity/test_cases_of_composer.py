"""What MosaicML Composer's own tests ask of its clipping, by numbers: Composer is not run.

Source: mosaicml/composer, tests/algorithms/test_gradient_clipping.py (test_gradient_clipping_functional,
test_apply_agc, test_apply_agc_does_not_error, test_get_clipped_gradients_1D, ..._1D_with_zeros, ..._2D, ..._3D,
..._4D). The tests of its trainer, of DeepSpeed and of FSDP have no counterpart. Tests called `test_differs_...` are
listed in docs/peers.md.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from doors import exact
from gradclip import AGC, ClipGradByGlobalNorm, ClipGradByValue

# The norms of weights and gradient are right to 1e-6 each; the coefficient and the product round once in float32.
CLOSE = 2e-6 + 2 * 2.0**-24

UNITS = {
    # The norms are 5 and 25: the gradient may have 2.5.
    "one axis": ([3.0, 4.0], [7.0, 24.0], 1 / 2, [0.7, 2.4]),
    # Of the second row 13 and 41: it may have 20.5, so it stays.
    "two axes": ([[3.0, 4.0], [9.0, 40.0]], [[7.0, 24.0], [5.0, 12.0]], 1 / 2, [[0.7, 2.4], [5.0, 12.0]]),
    # 9 and 6, 10 and 2: the first unit may have 3, and the second 10/3.
    "three axes": (
        [[[3.0, 8.0], [2.0, 2.0]], [[1.0, 3.0], [3.0, 9.0]]],
        [[[1.0, 1.0], [3.0, 5.0]], [[1.0, 1.0], [1.0, 1.0]]],
        1 / 3,
        [[[0.5, 0.5], [1.5, 2.5]], [[1.0, 1.0], [1.0, 1.0]]],
    ),
    "four axes": (
        [[[[3.0], [8.0]], [[2.0], [2.0]]], [[[1.0], [3.0]], [[3.0], [9.0]]]],
        [[[[1.0], [1.0]], [[3.0], [5.0]]], [[[1.0], [1.0]], [[1.0], [1.0]]]],
        1 / 3,
        [[[[0.5], [0.5]], [[1.5], [2.5]]], [[[1.0], [1.0]], [[1.0], [1.0]]]],
    ),
    "a gradient of zero": ([1.0, 1.0], [0.0, 0.0], 1e-4, [0.0, 0.0]),
    "both zero": ([0.0, 0.0], [0.0, 0.0], 1e-4, [0.0, 0.0]),
}


def weighted(weights, gradient):
    p = torch.nn.Parameter(torch.tensor(weights))
    p.grad = torch.tensor(gradient)
    return p


@pytest.mark.parametrize("floor", [0.0, 1e-3])
@pytest.mark.parametrize("name", UNITS)
def test_the_units_are_clipped_to_a_share_of_their_weights(door, name, floor):
    weights, gradient, ratio, expected = UNITS[name]
    p = weighted(weights, gradient)
    door.clip_(p, AGC(ratio, floor=floor))
    np.testing.assert_allclose(p.grad.double().numpy(), expected, rtol=CLOSE)


def linear():
    """A layer without bias, behind it a softmax."""
    return torch.nn.Sequential(torch.nn.Linear(4, 3, bias=False), torch.nn.Softmax(1)), torch.rand(8, 4)


def convolution():
    """A convolution, the mean of its maps, and three layers: weights of four and two axes, and biases."""
    layers = [torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()]
    for size in (4, 4, 3):
        layers += [torch.nn.Linear(4, size), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1], torch.nn.Softmax(1)), torch.rand(8, 3, 16, 16)


def transformer():
    """An embedding, a layer with attention, and a classifier: weights of every role."""
    encoder = torch.nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    classifier = [torch.nn.Flatten(), torch.nn.Linear(40, 3)]
    return torch.nn.Sequential(torch.nn.Embedding(100, 8), encoder, *classifier), torch.randint(100, (8, 5))


@pytest.fixture(params=[linear, convolution, transformer])
def model(request):
    """A model with gradients of a classification."""
    torch.manual_seed(0)
    made, batch = request.param()
    torch.nn.functional.cross_entropy(made(batch), torch.randint(3, (8,))).backward()
    for p in made.parameters():
        p.grad.mul_(100.0)  # far above 0.01 of the weights for most units
    return made


def unit_norms(tensor):
    """The norm of each index of the first axis, or of a tensor of one axis; in float64."""
    wide = tensor.detach().double().numpy()
    return np.sqrt((wide**2).sum(tuple(range(1, wide.ndim)) if wide.ndim > 1 else None, keepdims=True))


def test_a_model_is_clipped_unit_by_unit(door, model):
    """Composer's test calls `torch.equal` for this and does not look at the answer."""
    expected = []
    for p in model.parameters():
        norm, allowed = unit_norms(p.grad), 0.01 * np.maximum(unit_norms(p), 1e-3)
        factor = np.minimum(1.0, np.divide(allowed, norm, out=np.ones_like(norm), where=norm > 0))
        expected.append(p.grad.double().numpy() * factor)
    result = door.clip_(model, AGC(0.01))
    assert result.clipped
    for p, wanted in zip(model.parameters(), expected, strict=True):
        np.testing.assert_allclose(p.grad.double().numpy(), wanted, rtol=CLOSE)


def test_the_other_two_types_are_those_of_pytorch(door, model):
    """ "norm" is one norm for all, and "value" a bound for each element."""
    before = exact(*model.parameters())
    door.clip_(model, ClipGradByGlobalNorm(0.1))
    np.testing.assert_allclose(exact(*model.parameters()), before * (0.1 / np.linalg.norm(before)), rtol=CLOSE)
    door.clip_(model, ClipGradByValue(0.001))
    assert np.abs(exact(*model.parameters())).max() == np.float32(0.001)


def test_differs_weights_of_zero_may_learn(door):
    """In Composer they get a gradient of zero for ever; here they have the floor of the paper's own code, 1e-3."""
    p = weighted([0.0, 0.0], [1.0, 1.0])
    door.clip_(p, AGC(1e-4))
    np.testing.assert_allclose(exact(p), [1e-7 / 2**0.5] * 2, rtol=CLOSE)
    p = weighted([0.0, 0.0], [1.0, 1.0])
    door.clip_(p, AGC(1e-4, floor=0.0))
    assert p.grad.tolist() == [1.0, 1.0]
