"""The tasks without a claim: each is what it says of itself."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from gradclip import ClipGradByGlobalNorm
from gradclip.experiments.tasks import actor_critic, amp_digits, cart_pole, gan, label_noise, outliers
from gradclip.experiments.tasks.descent import Turn, descend, take_turns
from gradclip.rules.text import rule_from_text

NONE, GLOBAL = rule_from_text("none"), ClipGradByGlobalNorm(1.0)


def test_under_a_scaler_a_rule_sees_unscaled_gradients() -> None:
    weight = nn.Parameter(torch.tensor([0.0]))
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    run = descend(torch.optim.SGD([weight], 0.1), GLOBAL, lambda step: 0.5 * weight.sum(), 4, scaler=scaler)
    assert run.clipped == 0.0
    assert weight.item() == pytest.approx(-0.1 * 4 * 0.5)
    assert run.losses[1] == pytest.approx(-0.5 * 0.05)  # that of the user, not the scaled one


def test_a_step_that_the_scaler_leaves_out_moves_nothing_and_counts_as_not_clipped() -> None:
    weight = nn.Parameter(torch.tensor([0.0]))
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)

    def loss(step: int) -> torch.Tensor:
        slope = [math.inf, 3.0, math.inf, 3.0][step - 1]
        return (weight * 1.0).square().sum() + Sloped.apply(weight, slope).sum()

    run = descend(torch.optim.SGD([weight], 0.1), GLOBAL, loss, 4, scaler=scaler)
    assert run.clipped == 0.5
    assert weight.item() == pytest.approx(-0.1 * 2)
    assert scaler.get_scale() == 256.0


class Sloped(torch.autograd.Function):
    """0, with any slope: that of an overflow is infinite where the loss is not."""

    @staticmethod
    def forward(context, weight, slope):  # type: ignore[no-untyped-def]
        context.slope = slope
        return torch.zeros_like(weight)

    @staticmethod
    def backward(context, gradient):  # type: ignore[no-untyped-def]
        return gradient * context.slope, None


def test_the_net_is_in_half_precision_and_its_scale_outgrows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**24, growth_interval=1)
    monkeypatch.setattr(amp_digits, "loss_scaler", lambda: scaler)
    amp_digits.train(NONE, 0, steps=3)
    assert scaler.get_scale() < 2.0**24  # in 32 bits nothing overflows there
    assert amp_digits.GROWTH * 4 < amp_digits.STEPS


def test_a_fifth_of_the_targets_is_any_symbol() -> None:
    targets = np.zeros((200, 100), dtype=np.int64)
    found = label_noise.noisy(targets, 50, np.random.default_rng(0))
    # One in 50 of what is replaced is replaced by itself; of 20000 targets three deviations are 0.9 %.
    assert (found != 0).mean() == pytest.approx(label_noise.NOISE * 49 / 50, abs=0.009)
    assert set(found.ravel().tolist()) == set(range(50))
    assert targets.sum() == 0


def test_the_transformer_sees_nothing_that_comes_later() -> None:
    net = label_noise.Transformer(20)
    first = torch.randint(20, (2, 12))
    other = torch.cat((first[:, :7], (first[:, 7:] + 1) % 20), 1)
    with torch.no_grad():
        ours, theirs = net(first), net(other)
    torch.testing.assert_close(ours[:, :7], theirs[:, :7])
    assert not torch.allclose(ours[:, 7:], theirs[:, 7:])


def test_the_pole_falls_as_physics_says() -> None:
    leaning = np.array([[0.0, 0.0, 0.01, 0.0]])
    # By hand, as small as it leans: angle'' = g sin / (l (4/3 - m cos^2 / M)), without a push.
    sine, cosine, mass = math.sin(0.01), math.cos(0.01), 1.1
    turned = 9.8 * sine / (0.5 * (4 / 3 - 0.1 * cosine**2 / mass))
    driven = -0.1 * 0.5 * turned * cosine / mass
    assert cart_pole.moved(leaning, np.zeros(1))[0].tolist() == pytest.approx([0.0, 0.02 * driven, 0.01, 0.02 * turned])
    (_, speed, _, turning) = cart_pole.moved(np.zeros((1, 4)), np.array([10.0]))[0]
    assert speed > 0 > turning  # a push to the right leaves the pole behind


def test_momentum_is_kept_where_nobody_pushes() -> None:
    """Of cart and pole together, along the track; Euler's method keeps it up to the square of its step."""
    state = np.array([[0.0, 0.3, 0.2, -0.4]])

    def momentum(state: np.ndarray) -> float:
        _, speed, angle, turning = state[0]
        return float(1.1 * speed + 0.1 * 0.5 * turning * math.cos(angle))

    before = momentum(state)
    assert momentum(cart_pole.moved(state, np.zeros(1))) == pytest.approx(before, abs=2e-5)


def test_an_episode_ends_where_the_pole_has_fallen_or_the_cart_has_left() -> None:
    states = np.array([[0.0, 9.0, 0.0, 9.0], [2.5, 0.0, 0.0, 0.0], [0.0, 0.0, -0.21, 0.0], [2.3, 0.0, 0.2, 0.0]])
    assert cart_pole.fallen(states).tolist() == [False, True, True, False]


def test_carts_begin_anew_and_tell_how_long_they_were_up() -> None:
    carts = cart_pole.Carts(3, np.random.default_rng(0))
    carts.state[1, 2] = 1.0
    reached, down, over = carts.push(np.array([True, False, True]))
    assert down.tolist() == over.tolist() == [False, True, False]
    assert carts.returns == [1.0]
    assert abs(reached[1, 2]) > cart_pole.STEEPEST
    assert np.abs(carts.state[1]).max() <= cart_pole.SPREAD
    assert carts.state[0].tolist() == reached[0].tolist()


def test_pushing_at_random_has_the_return_that_the_task_says() -> None:
    carts, random = cart_pole.Carts(50, np.random.default_rng(0)), np.random.default_rng(1)
    for _ in range(500):
        carts.push(random.random(50) < 0.5)
    assert np.mean(carts.returns) == pytest.approx(22, abs=1.5)


def test_returns_end_with_a_fall_and_go_on_by_what_is_expected() -> None:
    down, over = np.zeros((3, 3), dtype=bool), np.zeros((3, 3), dtype=bool)
    down[1, 1] = over[1, 1] = True  # the second has fallen
    over[1, 2] = True  # the third was up for the longest time
    expected = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]])
    found, by = actor_critic.returns_of(down, over, expected), actor_critic.DISCOUNT
    assert found[2].tolist() == pytest.approx([1 + by * value for value in (7, 8, 9)])
    assert found[1].tolist() == pytest.approx([1 + by * found[2, 0], 1.0, 1 + by * 6])
    assert found[0].tolist() == pytest.approx([1 + by * value for value in found[1]])


def test_an_advantage_raises_the_chance_of_its_push() -> None:
    net, states = actor_critic.ActorCritic(), torch.zeros(1, 1, 4)
    right = torch.ones(1, 1)
    met = actor_critic.Rollout(states, right, net.critic(states).squeeze(-1).detach() + 5)
    actor_critic.actor_critic_loss(net, met).backward()
    (odds,) = [layer.bias.grad for layer in (net.actor[-1],)]
    assert odds is not None
    assert odds.item() < 0  # a step against it raises the log-odds
    assert net.critic[-1].bias.grad.item() < 0


def test_one_target_in_twenty_is_far_too_high() -> None:
    found = outliers.faults(100_000, torch.Generator().manual_seed(0))
    faulty = found[found != 0]
    assert len(faulty) == pytest.approx(5000, rel=0.05)
    assert faulty.min() >= outliers.LEAST
    assert faulty.median().item() == pytest.approx(3 * 2**0.5, rel=0.05)
    assert faulty.max() > 100


def test_friedmans_function_is_standardised_and_needs_five_inputs() -> None:
    inputs = torch.rand((100_000, 10), generator=torch.Generator().manual_seed(0))
    values = outliers.friedman(inputs)
    assert values.mean().item() == pytest.approx(0, abs=0.02)
    assert values.std().item() == pytest.approx(1, abs=0.02)
    inputs[:, 5:] = 0
    assert outliers.friedman(inputs).equal(values)


def test_the_ring_has_eight_modes_of_one_size() -> None:
    points = gan.ring(8000, torch.Generator().manual_seed(0))
    assert points.norm(dim=1).mean().item() == pytest.approx(gan.RADIUS, abs=0.02)
    modes = (torch.atan2(points[:, 1], points[:, 0]) / (math.pi / 4)).round().long() % 8
    assert torch.bincount(modes, minlength=8).tolist() == pytest.approx([1000] * 8, abs=100)


def test_the_distance_of_a_shift_is_its_mean_over_directions_and_that_of_itself_is_none() -> None:
    points = torch.randn((500, 2), generator=torch.Generator().manual_seed(0))
    assert gan.sliced_wasserstein(points, points.flip(0)) == 0
    # |cos| has the mean 2 / pi around the circle.
    shifted = points + torch.tensor([3.0, 0.0])
    assert gan.sliced_wasserstein(points, shifted) == pytest.approx(3 * 2 / math.pi, rel=1e-3)


def test_both_nets_of_a_gan_are_clipped_each_by_its_own_norm() -> None:
    ours, theirs = (nn.Parameter(torch.tensor([0.0])) for _ in range(2))
    turns = [
        Turn(torch.optim.SGD([ours], 0.1), lambda step: 3 * ours.sum()),
        Turn(torch.optim.SGD([theirs], 0.1), lambda step: 0.5 * theirs.sum() + 100 * ours.sum()),
    ]
    run = take_turns(turns, GLOBAL, 4)
    assert run.clipped == 0.5
    assert ours.item() == pytest.approx(-0.4)
    assert theirs.item() == pytest.approx(-0.2)
    assert len(run.losses) == 4


def test_turns_end_at_a_loss_of_any_of_them_that_is_not_finite() -> None:
    weight = nn.Parameter(torch.tensor([1.0]))
    turns = [
        Turn(torch.optim.SGD([weight], 0.1), lambda step: weight.sum()),
        Turn(torch.optim.SGD([weight], 0.1), lambda step: weight.sum() * (math.nan if step == 3 else 1.0)),
    ]
    run = take_turns(turns, NONE, 5)
    assert (run.broke_at, len(run.losses)) == (3, 3)
