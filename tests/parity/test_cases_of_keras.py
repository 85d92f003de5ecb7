"""What Keras' own tests ask of `clipnorm`, `clipvalue` and `global_clipnorm`, by numbers: Keras is not run.

Source: keras-team/keras, keras/src/optimizers/optimizer_test.py (test_clip_args, test_clip_norm, test_clip_value,
test_global_clip_norm), and test_clip_norm and test_clip_value in the test of each optimizer (sgd_test.py, adam_test.py,
lion_test.py and so on). What Keras asks of `_clip_gradients` is asked here of the gradient that an optimizer steps
with. Tests called `test_differs_...` are listed in docs/peers.md.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import paddle
import pytest
import torch

import gradclip.optax
import gradclip.paddle
from doors import parameter
from gradclip import ClipGradByGlobalNorm, ClipGradByNorm, ClipGradByValue
from paddle_eager import numbers
from paddle_eager import parameter as paddle_parameter

CASES = {
    "clipnorm": (ClipGradByNorm, [100.0, 100.0], [0.5**0.5, 0.5**0.5]),
    "clipvalue": (ClipGradByValue, [100.0, 100.0], [1.0, 1.0]),
    # 50 and 100 have the norm 50 sqrt(5).
    "global_clipnorm": (ClipGradByGlobalNorm, [50.0, 100.0], [1 / 5**0.5, 2 / 5**0.5]),
}
# The norm is right to 1e-6; the coefficient and the product round once in float32.
CLOSE = 1e-6 + 2 * 2.0**-24
OPTIMIZERS = [
    "SGD",
    "Adam",
    "AdamW",
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adamax",
    "NAdam",
    "RMSprop",
    "RAdam",
    "Rprop",
]


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("case", CASES)
def test_each_optimizer_steps_with_the_clipped_gradient(case, name):
    rule, gradient, expected = CASES[case]
    ours, by_hand = parameter(*gradient), parameter(*expected)
    for p in (ours, by_hand):
        optimizer = getattr(torch.optim, name)([p], lr=0.1)
        if p is ours:
            gradclip.attach(optimizer, rule(1.0))
        optimizer.step()
    assert ours.grad.tolist() == pytest.approx(expected, rel=CLOSE)
    # Each of these steps is at most the learning rate times a number near 1, so its error is at most that of float32.
    torch.testing.assert_close(ours.detach(), by_hand.detach(), rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["lamb", "lion", "sgd"])
@pytest.mark.parametrize("case", CASES)
def test_optimizers_that_only_optax_has_get_the_clipped_gradient(case, name):
    """Their moments show it: the first update of Lamb and of Lion is the same for a gradient of any size."""
    rule, gradient, expected = CASES[case]
    tx, params = getattr(optax, name)(0.1), jnp.ones(2)
    chained = optax.chain(gradclip.optax.clip(rule(1.0)), tx)
    ours, (_, state) = chained.update(jnp.array(gradient), chained.init(params), params)
    by_hand = tx.update(jnp.array(expected), tx.init(params), params)
    # The second moment squares the gradient, and so doubles its error.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2 * CLOSE), (ours, state), by_hand)


@pytest.mark.parametrize("name", ["SGD", "Lamb", "Adamax"])
@pytest.mark.parametrize("case", CASES)
def test_optimizers_of_paddle_get_the_clipped_gradient(case, name):
    """Which is written in place, so it can be read after the step."""
    rule, gradient, expected = CASES[case]
    p = paddle_parameter(*gradient)
    getattr(paddle.optimizer, name)(0.1, parameters=[p], grad_clip=gradclip.paddle.Clip(rule(1.0))).step()
    assert numbers(p.grad).tolist() == pytest.approx(expected, rel=CLOSE)


@pytest.mark.parametrize("case", CASES)
def test_the_limit_can_be_read_again(case):
    assert CASES[case][0](0.1).threshold.limit == 0.1


def test_differs_several_clips_are_a_chain_and_not_an_error():
    """Norm first, 100 and 100 become 0.7 each, and then 0.5; what is an error is to attach twice."""
    p = parameter(100.0, 100.0)
    optimizer = torch.optim.SGD([p], lr=1.0)
    gradclip.attach(optimizer, ClipGradByNorm(1.0) >> ClipGradByValue(0.5))
    with pytest.raises(ValueError, match="a clipper is attached to this SGD already"):
        gradclip.attach(optimizer, ClipGradByValue(0.5))
    optimizer.step()
    assert p.tolist() == [-0.5, -0.5]
