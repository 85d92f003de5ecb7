"""Proximal policy optimisation balances a pole, at the settings that are usual for it.

J. Schulman et al. 2017, arXiv:1707.06347; what it needs beside the paper as S. Huang et al. 2022 list it ("The 37
implementation details of proximal policy optimization", ICLR blog track), the global norm clipped at 0.5 among it: four
carts, 128 pushes of each between two looks at them, which are gone through four times in four parts, advantages by
GAE, and Adam, whose rate falls to 0 in a line. Two things are not as there: the loss of the critic is not clipped, and
a pole that is still up at the end of a longest episode is worth what the critic expects of it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from gradclip.experiments.outcome import Metric, TrainingOutcome
from gradclip.experiments.tasks.actor_critic import (
    DISCOUNT,
    EPISODES,
    OF_CRITIC,
    OF_ENTROPY,
    TwoNets,
    last,
    pushed,
    single,
)
from gradclip.experiments.tasks.cart_pole import LONGEST, Carts
from gradclip.experiments.tasks.descent import MakeOptimizer, descend, set_rate
from gradclip.experiments.tasks.first_weights import drawn
from gradclip.experiments.tasks.task import Task
from gradclip.experiments.training.framework import Array
from gradclip.rules.rule import AnyRule

CARTS, PUSHES, UNITS, RATE = 4, 128, 64, 2.5e-4
"""Carts at once, pushes of each in a rollout, hidden units of both layers, and the first learning rate."""
TRACE, RATIO = 0.95, 0.2
"""The decay of GAE, and how far the probability of an action may go from what it was before it stops counting."""
EPOCHS, PARTS = 4, 4
ROLLOUTS = 488
"""A quarter of a million pushes."""
LOOKS = 40
"""At the return, at equal distances."""
STEPS = ROLLOUTS * EPOCHS * PARTS


class PolicyAndCritic(TwoNets):
    """Two nets with two hidden layers."""

    def __init__(self) -> None:
        super().__init__(_net(0.01), _net(1.0))


def _net(gain: float) -> nn.Sequential:
    """Two layers of tanh units and a readout, with orthogonal first weights and no first bias."""
    gains = ((4, UNITS, math.sqrt(2)), (UNITS, UNITS, math.sqrt(2)), (UNITS, 1, gain))
    layers = [nn.Linear(wide, high) for wide, high, _ in gains]
    for layer, (_, _, scale) in zip(layers, gains, strict=True):
        nn.init.orthogonal_(layer.weight, scale)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(layers[0], nn.Tanh(), layers[1], nn.Tanh(), layers[2])


class Met(NamedTuple):
    """What was met, [N] of each but the states [N, 4]: whether a push went to the right (1 or 0), the logarithm of its
    probability then, its advantage, and the return that follows from it."""

    states: Tensor
    right: Tensor
    log_chance: Tensor
    advantages: Tensor
    returns: Tensor


def rolled_out(net: PolicyAndCritic, carts: Carts, random: np.random.Generator) -> Met:
    """What the carts have met, and how it was judged then."""
    met = pushed(net, carts, PUSHES, random)
    states, right = single(met.states), single(met.right)
    with torch.no_grad():
        odds, expected = net(states)
        then = net.critic(single(met.reached)).squeeze(-1).numpy()
        log_chance = torch.distributions.Bernoulli(logits=odds).log_prob(right)
    advantages = single(advantages_of(expected.numpy(), then, met.down, met.over))
    columns = (states, right, log_chance, advantages, advantages + expected)
    return Met(*(column.flatten(0, 1) for column in columns))


def advantages_of(expected: Array, then: Array, down: Array, over: Array) -> Array:
    """The advantage [T, N] of each push, which earns 1, by GAE (J. Schulman et al. 2015, arXiv:1506.02438), from what
    the critic expects [T, N] before it and `then`, after it; a pole that is down earns nothing more."""
    surprise = 1 + DISCOUNT * np.where(down, 0.0, then) - expected
    following, advantages = np.zeros_like(surprise[0]), np.empty_like(surprise)
    for t in reversed(range(len(surprise))):
        following = advantages[t] = surprise[t] + DISCOUNT * TRACE * np.where(over[t], 0.0, following)
    return advantages


def parts(net: PolicyAndCritic, carts: Carts, random: np.random.Generator) -> Iterator[Met]:
    """Rollout after rollout, in parts drawn anew in each epoch."""
    while True:
        met = rolled_out(net, carts, random)
        for _ in range(EPOCHS):
            for part in np.split(random.permutation(len(met.states)), PARTS):
                yield Met(*(column[part] for column in met))


def ppo_loss(net: PolicyAndCritic, met: Met) -> Tensor:
    """The clipped loss of the actor, the squared one of the critic, and less the entropy of the policy."""
    odds, expected = net(met.states)
    policy = torch.distributions.Bernoulli(logits=odds)
    ratio = (policy.log_prob(met.right) - met.log_chance).exp()
    advantages = (met.advantages - met.advantages.mean()) / (met.advantages.std() + 1e-8)
    actor = -torch.minimum(advantages * ratio, advantages * ratio.clamp(1 - RATIO, 1 + RATIO)).mean()
    critic = (expected - met.returns).square().mean() / 2
    found: Tensor = actor + OF_CRITIC * critic - OF_ENTROPY * policy.entropy().mean()
    return found


def adam(parameters: Iterable[nn.Parameter], rate: float) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, rate, eps=1e-5)


def train(
    rule: AnyRule, seed: int, steps: int = STEPS, rate: float = RATE, optimizer: MakeOptimizer = adam
) -> TrainingOutcome:
    """Trains from the first push on; the metric is the mean of what the last episodes returned, over training."""
    random = np.random.default_rng(seed)
    net, carts = drawn(PolicyAndCritic, seed), Carts(CARTS, random)
    made, batches = optimizer(net.parameters(), rate), parts(net, carts, random)
    curve: list[tuple[float, float]] = []
    every = max(steps // LOOKS, 1)

    def loss(step: int) -> Tensor:
        set_rate(made, rate * (1 - (step - 1) // (EPOCHS * PARTS) * (EPOCHS * PARTS) / steps))
        return ppo_loss(net, next(batches))

    def written(step: int) -> bool:
        if step % every == 0 and carts.returns:
            curve.append((step, last(carts.returns)))
        return False

    run = descend(made, rule, loss, steps, net, written)
    found = statistics.fmean(returned for _, returned in curve) if curve else 0.0
    return TrainingOutcome(found, curve=tuple(curve), clipped=run.clipped, diverged=run.diverged)


TASK = Task(
    name="ppo",
    about=(
        f"Proximal policy optimisation (two MLPs with two layers of {UNITS} tanh units) balances a pole on a cart. "
        f"{ROLLOUTS} times {CARTS} carts are pushed {PUSHES} times each, and what was met is gone through {EPOCHS} "
        f"times in {PARTS} parts: {STEPS} steps of Adam, whose rate falls from {RATE:g} to 0. The published threshold "
        "is 0.5 (S. Huang et al. 2022, ICLR blog track, where the loss of the critic is clipped, too; here it is not). "
        "The metric is the mean over training of what the last "
        f"{EPISODES} episodes returned, which is at most {LONGEST}."
    ),
    claims=(),
    metric=Metric("return over training", best="highest", y=f"mean return of {EPISODES} episodes", margin=20.0),
    rules=("none", "global:0.5", "global:0.1", "global:5"),
    train=train,
)
