"""A threshold that is a length: however large a gradient is, SGD moves the parameters by so much and no more."""

import math

import jax.numpy as jnp
import numpy as np
import optax
import paddle
import pytest
import torch

from gradclip import L2, Global, Rule, StepLength, Tensor, from_dict, max_of, min_of
from gradclip.optax import clip as optax_clip
from gradclip.paddle import Clip
from gradclip.torch import Clipper, attach

RULE = Rule(threshold=StepLength(0.5))


def moved(optimizer: torch.optim.Optimizer, weight: torch.nn.Parameter, gradient: torch.Tensor) -> float:
    """How far one gradient has moved the weight when its echoes have died away."""
    before = weight.detach().clone()
    weight.grad = gradient.clone()
    optimizer.step()
    momentum = optimizer.param_groups[0]["momentum"]
    # until the momentum holds 4e-14 of it, 600 steps for 0.95: that moves nothing that float64 shows beside 0.5
    for _ in range(math.ceil(math.log(4e-14, momentum)) if momentum else 1):
        weight.grad = torch.zeros_like(weight)
        optimizer.step()
    return float((weight.detach() - before).norm())


@pytest.mark.parametrize("rate", [0.003, 0.1, 2.0])
@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.95])
def test_a_large_gradient_moves_the_parameters_by_the_length_and_a_small_one_as_it_would(door, rate, momentum):
    weight = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
    optimizer = torch.optim.SGD([weight], rate, momentum)
    clipper = attach(optimizer, RULE, engine=door.engine)
    large = torch.tensor([3e4, 0.0, -4e4], dtype=torch.float64)
    # float64 throughout, and up to 603 additions
    assert moved(optimizer, weight, large) == pytest.approx(0.5, rel=1e-9)
    assert clipper.last.skipped is False
    small = large * (0.4 / 5e4 * (1 - momentum) / rate)
    assert moved(optimizer, weight, small) == pytest.approx(0.4, rel=1e-9)


def test_the_threshold_follows_a_schedule_of_the_rate(door):
    weight = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([weight], 0.1, 0.9)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.1)
    clipper = attach(optimizer, RULE, engine=door.engine)
    thresholds = []
    for _ in range(3):
        weight.grad = torch.ones(2)
        optimizer.step()
        schedule.step()
        thresholds.append(float(clipper.last.threshold))
    assert thresholds == pytest.approx([0.5, 5.0, 50.0], rel=1e-6)


@pytest.mark.parametrize("options", [(0.0, 0.5), (0.0, 1.0), (0.9, 0.9), (0.9, 0.5), (0.5, 2.5)], ids=str)
def test_dampening_is_that_of_sgd_which_has_none_for_the_first_gradient_and_without_momentum(door, options):
    """Of the first gradient all is taken up, or what dampening makes of a later one, which by 2.5 is more."""
    weight = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
    momentum, dampening = options
    optimizer = torch.optim.SGD([weight], 0.1, momentum, dampening)
    attach(optimizer, RULE, engine=door.engine)
    large = torch.tensor([3e4, 0.0, -4e4], dtype=torch.float64)
    first = max(1.0, dampening - 1.0) if momentum else 1.0
    assert moved(optimizer, weight, large) == pytest.approx(0.5 / first, rel=1e-9)
    assert moved(optimizer, weight, large) == pytest.approx(0.5, rel=1e-9)


def walked(door, schedule, spike_at, steps=200, **options):
    """How far a gradient of 1e6 at a step has moved the weight at the end of a schedule of factors."""
    weight = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = torch.optim.SGD([weight], 0.1, **options)
    lowered = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
    attach(optimizer, RULE, engine=door.engine)
    for step in range(steps):
        weight.grad = torch.full_like(weight, 1e6 * (step == spike_at))
        optimizer.step()
        lowered.step()
    return abs(weight.item())


def test_at_a_rate_of_zero_a_gradient_is_clipped_for_the_rates_that_its_echoes_meet(door):
    """They begin at 0.9 of the gradient, and the rate is at most that of the optimizer."""
    for warm_up in (1, 10, 100):
        assert 0.0 < walked(door, lambda t, w=warm_up: min(1.0, t / w), 0, momentum=0.9) <= 0.9 * 0.5 * (1 + 1e-9)
    restarted = walked(door, lambda t: float(t != 50), 50, momentum=0.9)
    assert restarted == pytest.approx(0.9 * 0.5, rel=1e-6)  # 0.9^150 is 1.4e-7
    assert walked(door, lambda t: float(t > 0), 0) == 0.0


def test_at_a_rate_of_zero_the_largest_rate_that_a_schedule_names_counts(door):
    weight = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = torch.optim.SGD([weight], 0.1, momentum=0.9)
    once = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.5, 100, div_factor=math.inf, cycle_momentum=False)
    clipper = attach(optimizer, RULE, engine=door.engine)
    assert optimizer.param_groups[0]["lr"] == 0.0
    weight.grad = torch.full_like(weight, 1e6)
    optimizer.step()
    once.step()
    assert float(clipper.last.threshold) == pytest.approx(0.5 * 0.1 / 0.5)


@pytest.mark.parametrize("as_rate", [float, torch.tensor])
def test_groups_that_do_not_train_do_not_count(door, as_rate):
    """A frozen one, and one at a rate of 0 beside others; where all are at 0 all count, with a gradient or without."""
    weights = [torch.nn.Parameter(torch.zeros(2, dtype=torch.float64)) for _ in range(3)]
    rates = [as_rate(10.0), as_rate(0.0), as_rate(0.01)]
    groups = [{"params": [w], "lr": rate} for w, rate in zip(weights, rates, strict=True)]
    optimizer = torch.optim.SGD(groups, 0.1, momentum=0.5)
    clipper = attach(optimizer, RULE, engine=door.engine)
    weights[0].requires_grad_(False)
    weights[1].grad = torch.ones_like(weights[1])
    optimizer.step()
    assert float(clipper.last.threshold) == pytest.approx(0.5 * 0.5 / 0.01, rel=1e-6)
    optimizer.param_groups[2]["lr"] = as_rate(0.0)
    weights[1].grad = torch.ones_like(weights[1])
    optimizer.step()
    assert float(clipper.last.threshold) == pytest.approx(0.5 * 0.5 / 0.1, rel=1e-6)


@pytest.mark.parametrize(("step", "lengths"), [(1, 10.0), (3, 4.0), (9, 2.0)])
def test_in_a_warm_up_the_echoes_are_as_much_longer_as_is_said(door, step, lengths):
    """1 + 9 / step, in a warm-up that goes on until nothing is left of the echoes; 0.9^200 is 7e-10."""
    assert walked(door, lambda t: t / 400, step, momentum=0.9) == pytest.approx(0.5 * lengths, rel=1e-6)


class Loud(torch.optim.SGD):
    def step(self, closure=None):
        return super().step(closure)


class OfSigns(torch.optim.SGD):
    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p -= group["lr"] * p.grad.sign()


class Plain(torch.optim.SGD):
    """One with the step of its base."""


@pytest.mark.parametrize(("kind", "served"), [(Loud, True), (Plain, True), (OfSigns, False)])
def test_of_classes_derived_from_sgd_those_are_served_that_step_as_it_does(door, kind, served):
    weight = torch.nn.Parameter(torch.zeros(2))
    optimizer = kind([weight], 0.1)
    clipper = attach(optimizer, RULE, engine=door.engine)
    weight.grad = torch.tensor([30.0, 40.0])
    if not served:
        with pytest.raises(ValueError, match="the steps of OfSigns are no multiples of the gradient"):
            optimizer.step()
        return
    optimizer.step()
    assert float(clipper.last.threshold) == pytest.approx(5.0)
    np.testing.assert_allclose(weight.detach(), [-0.3, -0.4], rtol=3e-7)


@pytest.mark.parametrize("as_rate", [float, torch.tensor])
def test_the_largest_rate_of_all_groups_and_optimizers_counts(door, as_rate):
    weights = [torch.nn.Parameter(torch.zeros(2)) for _ in range(3)]
    groups = [{"params": weights[:1], "lr": as_rate(0.01)}, {"params": weights[1:2], "momentum": 0.8, "dampening": 0.5}]
    first = torch.optim.SGD(groups, 0.02)
    second = torch.optim.SGD([weights[2]], 0.04)
    clipper = attach(first, second, rule=RULE, engine=door.engine)
    for weight in weights:
        weight.grad = torch.ones(2)
    first.step()
    # 0.01, 0.02 / 0.2 = 0.1 and 0.04; a rate of float32 has 24 bits
    assert float(clipper.last.threshold) == pytest.approx(0.5 / 0.1, rel=1e-6)
    for weight in weights:
        weight.grad = torch.ones(2)
    first.step()
    assert float(clipper.last.threshold) == pytest.approx(0.5 / 0.05, rel=1e-6)  # half of it is dampened


def test_a_rate_that_is_given_counts_instead_and_for_one_step(door):
    weight = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([weight], 0.1)
    clipper = attach(optimizer, RULE, engine=door.engine)
    found = []
    for given in ({"rate": 1.0}, {}):
        weight.grad = torch.ones(2)
        clipper.give(**given)
        optimizer.step()
        found.append(float(clipper.last.threshold))
    assert found == pytest.approx([0.5, 5.0])


def test_the_explicit_form_reads_the_rate_of_an_optimizer_and_asks_for_it_elsewhere(door):
    weight = torch.nn.Parameter(torch.zeros(2))
    weight.grad = torch.tensor([3.0, 4.0])
    clipper = Clipper(RULE, engine=door.engine)
    assert float(clipper.clip_(torch.optim.SGD([weight], 0.5)).threshold) == pytest.approx(1.0)
    weight.grad = torch.tensor([3.0, 4.0])
    with pytest.raises(ValueError, match=r"the rule reads the rate, which was not given at step 1.*give\(rate="):
        clipper.clip_([weight])
    assert weight.grad.tolist() == [3.0, 4.0]


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.RMSprop, torch.optim.Adagrad])
def test_an_optimizer_whose_steps_are_no_multiples_of_the_gradient_is_refused(door, kind):
    weight = torch.nn.Parameter(torch.zeros(2))
    optimizer = kind([weight], 0.1)
    clipper = attach(optimizer, RULE, engine=door.engine)
    weight.grad = torch.ones(2)
    with pytest.raises(ValueError, match=rf"reads the learning rate of SGD.*{kind.__name__}.*give\(rate="):
        optimizer.step()
    assert weight.tolist() == [0.0, 0.0]
    clipper.give(rate=1.0)
    optimizer.step()
    assert float(clipper.last.threshold) == 0.5


def test_a_momentum_of_one_has_no_length():
    weight = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([weight], 0.1, 1.0)
    attach(optimizer, RULE)
    weight.grad = torch.ones(2)
    with pytest.raises(ValueError, match=r"a momentum of 1 .* below 1"):
        optimizer.step()


@pytest.mark.parametrize("rate", [0.0, math.nan])
def test_a_rate_that_is_given_as_zero_has_no_threshold(door, rate):
    weight = torch.nn.Parameter(torch.zeros(2))
    weight.grad = torch.ones(2)
    clipper = Clipper(RULE, engine=door.engine)
    clipper.give(rate=rate)
    assert not clipper.clip_([weight]).clipped
    assert weight.grad.tolist() == [1.0, 1.0]


def test_a_rate_below_zero_moves_as_far_to_the_other_side(door):
    weight = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([weight], 0.1)
    clipper = attach(optimizer, RULE, engine=door.engine)
    for given in ({}, {"rate": -0.1}):
        weight.grad = torch.tensor([30.0, 40.0])
        optimizer.param_groups[0]["lr"] = -0.1
        clipper.give(**given)
        optimizer.step()
        assert float(clipper.last.threshold) == pytest.approx(5.0)


def test_it_stands_beside_other_thresholds_and_for_each_tensor(door):
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    rule = Rule(Tensor(), L2(), max_of(min_of(StepLength(1.0), 4.0), 0.5))
    for rate, expected in ((0.1, 4.0), (0.5, 2.0), (100.0, 0.5)):
        optimizer = torch.optim.SGD(weights, rate)
        for weight, value in zip(weights, (50.0, 0.1), strict=True):
            weight.grad = torch.tensor([value])
        Clipper(rule, engine=door.engine).clip_(optimizer)
        # one rounding of float32 of the coefficient and one of the product
        assert [weight.grad.item() for weight in weights] == pytest.approx([expected, 0.1], rel=3e-7)


def test_in_jax_the_rate_is_handed_over():
    clip = optax_clip(RULE)
    gradients = {"w": jnp.array([3.0, 4.0])}
    clipped, _ = clip.update(gradients, clip.init(gradients), rate=0.5)
    # one rounding of float32 of the coefficient and one of the product
    np.testing.assert_allclose(clipped["w"], [0.6, 0.8], rtol=3e-7)
    chained = optax.chain(clip, optax.sgd(0.5))
    updates, _ = chained.update(gradients, chained.init(gradients), rate=0.5)
    np.testing.assert_allclose(updates["w"], [-0.3, -0.4], rtol=3e-7)


def test_in_paddle_the_rate_is_handed_over():
    weight = paddle.create_parameter([2], "float32")
    clip = Clip(RULE)
    optimizer = paddle.optimizer.SGD(0.5, [weight], grad_clip=clip)
    before = weight.numpy()
    (weight * paddle.to_tensor([3.0, 4.0])).sum().backward()
    clip.give(rate=0.5)
    optimizer.step()
    # weights of about 1 are rounded by float32
    np.testing.assert_allclose(before - weight.numpy(), [0.3, 0.4], rtol=0, atol=3e-7)


def test_it_is_written_and_read_back_and_says_what_it_is():
    assert from_dict(RULE.to_dict()) == RULE
    assert str(RULE) == "all tensors together: an L2 norm above that of a step of length 0.5 is rescaled to it"
    assert Rule(Global(), L2(), StepLength(2)) == Rule(threshold=StepLength(2.0))


@pytest.mark.parametrize("length", [0.0, -1.0, math.nan, math.inf, "long", None, True])
def test_a_length_is_a_finite_number_above_0(length):
    with pytest.raises((ValueError, TypeError), match="the length of a step"):
        StepLength(length)


def test_an_attached_clipper_of_updates_refuses_it():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))], 0.1)
    with pytest.raises(ValueError, match=r'reads the loss.*place="gradient"'):
        attach(optimizer, RULE, place="update")
