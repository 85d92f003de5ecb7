"""A soft actor-critic that pushes a point to the origin: an actor, two critics and a temperature, an optimizer each."""

import copy
import sys

import torch
from torch import nn

variant = sys.argv[1] if len(sys.argv) > 1 else "healthy"
torch.manual_seed(0)
torch.set_num_threads(1)
STEPS, BATCH, DISCOUNT, KEEP = 80, 32, 0.95, 0.98
clip = nn.utils.clip_grad_norm_


def net(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, 32), nn.ReLU(), nn.Linear(32, outputs))


class Actor(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = net(4, 4)

    def forward(self, state):
        mean, width = self.body(state).chunk(2, dim=1)
        normal = torch.distributions.Normal(mean, width.clamp(-5.0, 1.0).exp())
        raw = normal.rsample()
        push = raw.tanh()
        log_prob = normal.log_prob(raw) - torch.log(1.0 - push.square() + 1e-6)
        return push, log_prob.sum(dim=1, keepdim=True)


def moved(state: torch.Tensor, push: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Where points of some place and speed are next, and the reward for it."""
    speed = 0.9 * state[:, 2:] + 0.2 * push
    state = torch.cat([state[:, :2] + 0.2 * speed, speed], dim=1)
    return state, -10.0 * state[:, :2].square().sum(dim=1, keepdim=True) - 0.1 * push.square().sum(dim=1, keepdim=True)


actor, critics = Actor(), [net(6, 1), net(6, 1)]
targets = [copy.deepcopy(critic) for critic in critics]
log_alpha = torch.zeros(1, requires_grad=True)
actor_optimizer = torch.optim.Adam(actor.parameters(), lr=0.003)
first_optimizer = torch.optim.Adam(critics[0].parameters(), lr=0.003)
second_optimizer = torch.optim.Adam(critics[1].parameters(), lr=0.003)
alpha_optimizer = torch.optim.Adam([log_alpha], lr=0.003)
memory: list[tuple[torch.Tensor, ...]] = []
state = torch.randn(8, 4)

for step in range(STEPS + 10):
    with torch.no_grad():
        push, _ = actor(state)
        after, reward = moved(state, push)
    memory.append((state, push, reward, after))
    state = after if step % 20 else torch.randn(8, 4)
    if step < 10:
        continue
    old, done, gained, new = (torch.cat(parts) for parts in zip(*memory, strict=True))
    chosen = torch.randint(len(old), (BATCH,))
    old, done, gained, new = old[chosen], done[chosen], gained[chosen], new[chosen]

    with torch.no_grad():
        following, log_prob = actor(new)
        value = torch.min(*(target(torch.cat([new, following], dim=1)) for target in targets))
        goal = gained + DISCOUNT * (value - log_alpha.exp() * log_prob)
    first_loss = (critics[0](torch.cat([old, done], dim=1)) - goal).square().mean()
    first_optimizer.zero_grad()
    first_loss.backward()
    if variant == "actor_for_critics":
        clip(actor.parameters(), 1.0)  # planted: actor_for_critics
    elif variant == "target":
        clip(targets[0].parameters(), 1.0)  # planted: target
    elif variant not in ("actor_only", "none"):
        clip(critics[0].parameters(), 1.0)  # planted: critics_only
    first_optimizer.step()
    second_loss = (critics[1](torch.cat([old, done], dim=1)) - goal).square().mean()
    second_optimizer.zero_grad()
    second_loss.backward()
    if variant == "actor_for_critics":
        clip(actor.parameters(), 1.0)  # planted: actor_for_critics
    elif variant == "first_for_second":
        clip(critics[0].parameters(), 1.0)  # planted: first_for_second
    elif variant not in ("actor_only", "none"):
        clip(critics[1].parameters(), 1.0)
    second_optimizer.step()

    push, log_prob = actor(old)
    worth = torch.min(*(critic(torch.cat([old, push], dim=1)) for critic in critics))
    actor_loss = (log_alpha.exp().detach() * log_prob - worth).mean()
    actor_optimizer.zero_grad()
    actor_loss.backward()
    if variant not in ("critics_only", "none"):
        clip(actor.parameters(), 1.0)  # planted: actor_only
    actor_optimizer.step()

    alpha_loss = -(log_alpha * (log_prob.detach() - 2.0)).mean()
    alpha_optimizer.zero_grad()
    alpha_loss.backward()
    alpha_optimizer.step()
    with torch.no_grad():
        for target, critic in zip(targets, critics, strict=True):
            for slow, fast in zip(target.parameters(), critic.parameters(), strict=True):
                slow.mul_(KEEP).add_(fast, alpha=1.0 - KEEP)
