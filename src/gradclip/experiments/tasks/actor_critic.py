"""An advantage actor-critic balances a pole: gradients of a policy are noisy, and their size means something.

The actor raises the log-probability of each action by its advantage over what the critic has expected; the critic
learns what is to be expected (V. Mnih et al. 2016, arXiv:1602.01783, in one process and with all carts at once). The
returns grow as the pole stays up longer, and the gradients with them. RMSprop, as there.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from gradclip.experiments.outcome import Metric, TrainingOutcome
from gradclip.experiments.tasks.cart_pole import LONGEST, Carts
from gradclip.experiments.tasks.descent import MakeOptimizer, descend
from gradclip.experiments.tasks.first_weights import drawn
from gradclip.experiments.tasks.task import Task
from gradclip.experiments.training.framework import Array
from gradclip.rules.rule import AnyRule

CARTS, PUSHES, UNITS, RATE, STEPS = 32, 16, 32, 1e-3, 500
"""Carts at once, pushes of each between two updates, hidden units, the learning rate, and updates."""
DISCOUNT, OF_CRITIC, OF_ENTROPY = 0.99, 0.5, 0.01
EPISODES = 100
"""The metric is the mean return of this many."""
EVERY = 20


class TwoNets(nn.Module):
    """For states [N, 4] the log-odds of a push to the right, and the return to be expected, [N] both, of nets that give
    [N, 1] each."""

    def __init__(self, actor: nn.Module, critic: nn.Module) -> None:
        super().__init__()
        self.actor, self.critic = actor, critic

    def forward(self, state: Tensor) -> tuple[Tensor, Tensor]:
        return self.actor(state).squeeze(-1), self.critic(state).squeeze(-1)


class ActorCritic(TwoNets):
    """Two nets with one hidden layer."""

    def __init__(self) -> None:
        nets = (nn.Sequential(nn.Linear(4, UNITS), nn.Tanh(), nn.Linear(UNITS, 1)) for _ in ("actor", "critic"))
        super().__init__(*nets)


class Pushed(NamedTuple):
    """States [T, N, 4], whether they were pushed to the right, which states that led to, which of these have fallen,
    and whose episode was over, [T, N] but for the states."""

    states: Array
    right: Array
    reached: Array
    down: Array
    over: Array


class Rollout(NamedTuple):
    """What was met: states [T, N, 4], whether they were pushed to the right (1 or 0), and the returns, both [T, N]."""

    states: Tensor
    right: Tensor
    returns: Tensor


def pushed(net: TwoNets, carts: Carts, pushes: int, random: np.random.Generator) -> Pushed:
    """The carts pushed so many times as the policy draws it."""
    met: list[Pushed] = []
    with torch.no_grad():
        for _ in range(pushes):
            state = carts.state
            chance = net.actor(single(state)).squeeze(-1).sigmoid().numpy()
            right = random.random(len(chance)) < chance
            met.append(Pushed(state, right, *carts.push(right)))
    return Pushed(*map(np.stack, zip(*met, strict=True)))


def rolled_out(net: ActorCritic, carts: Carts, random: np.random.Generator) -> Rollout:
    """What the carts have met."""
    met = pushed(net, carts, PUSHES, random)
    with torch.no_grad():
        expected = net.critic(single(met.reached)).squeeze(-1).numpy()
    returns = returns_of(met.down, met.over, expected)
    return Rollout(single(met.states), single(met.right), single(returns))


def returns_of(down: Array, over: Array, expected: Array) -> Array:
    """The discounted returns [T, N], 1 for each push that was survived or not; where the pole is still up at the end,
    of the rollout or of a longest episode, what the critic expects there stands for the rest."""
    following, returns = expected[-1], np.empty_like(expected)
    for t in reversed(range(len(expected))):
        following = np.where(over[t], expected[t], following)
        following = returns[t] = 1 + DISCOUNT * np.where(down[t], 0.0, following)
    return returns


def single(values: Array) -> Tensor:
    """A tensor of 32 bits."""
    return torch.from_numpy(values).float()


def actor_critic_loss(net: ActorCritic, met: Rollout) -> Tensor:
    """That of the actor, of the critic, and less the entropy of the policy."""
    odds, expected = net(met.states)
    surprise = met.returns - expected
    policy = torch.distributions.Bernoulli(logits=odds)
    actor = -(surprise.detach() * policy.log_prob(met.right)).mean()
    found: Tensor = actor + OF_CRITIC * surprise.square().mean() - OF_ENTROPY * policy.entropy().mean()
    return found


def rmsprop(parameters: Iterable[nn.Parameter], rate: float) -> torch.optim.Optimizer:
    return torch.optim.RMSprop(parameters, rate)


def train(
    rule: AnyRule, seed: int, steps: int = STEPS, rate: float = RATE, optimizer: MakeOptimizer = rmsprop
) -> TrainingOutcome:
    """Trains from the first push on; the metric is the mean return of the last episodes that ended."""
    random = np.random.default_rng(seed)
    net, carts = drawn(ActorCritic, seed), Carts(CARTS, random)
    curve: list[tuple[float, float]] = []

    def written(step: int) -> bool:
        if step % EVERY == 0 and carts.returns:
            curve.append((step, last(carts.returns)))
        return False

    run = descend(
        optimizer(net.parameters(), rate),
        rule,
        lambda step: actor_critic_loss(net, rolled_out(net, carts, random)),
        steps,
        net,
        written,
    )
    return TrainingOutcome(last(carts.returns), curve=tuple(curve), clipped=run.clipped, diverged=run.diverged)


def last(returns: list[float]) -> float:
    """The mean of the last returns; 0 where no episode has ended."""
    return statistics.fmean(returns[-EPISODES:]) if returns else 0.0


TASK = Task(
    name="actor-critic",
    about=(
        f"An advantage actor-critic (two MLPs of {UNITS} tanh units) balances a pole on a cart, {CARTS} carts at once. "
        f"RMSprop {RATE:g}, {STEPS} updates on {PUSHES} pushes of each. The metric is the mean return of the last "
        f"{EPISODES} episodes that ended, at most {LONGEST}; pushing at random has about 22."
    ),
    claims=(),
    metric=Metric("return of the last episodes", best="highest", x="update", y=f"mean return of {EPISODES} episodes"),
    rules=("none", "global:1", "global:0.1"),
    train=train,
)
