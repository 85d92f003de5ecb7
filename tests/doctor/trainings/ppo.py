"""An actor and a critic in one module and one optimizer learn to balance a pole, by PPO."""

import math
import sys

import torch
from torch import nn

variant = sys.argv[1] if len(sys.argv) > 1 else "healthy"
torch.manual_seed(0)
torch.set_num_threads(1)
POLES, HORIZON, UPDATES, EPOCHS, PARTS = 8, 32, 8, 4, 3
DISCOUNT, TRACE, CLIP_RANGE = 0.99, 0.95, 0.2
LIMIT = {"zero": 0.0, "tiny": 0.001, "huge": 1000.0}.get(variant, 0.5)


class Poles:
    """Poles on carts, pushed to the left or to the right; one that falls is set up again."""

    def __init__(self, many: int) -> None:
        self.state = 0.05 * torch.randn(many, 4)
        self.age = torch.zeros(many)

    def step(self, push: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        place, speed, angle, turn = self.state.T
        force = 10.0 * (2.0 * push - 1.0)
        inner = (force + 0.05 * turn**2 * angle.sin()) / 1.1
        turning = (9.8 * angle.sin() - angle.cos() * inner) / (0.5 * (4.0 / 3.0 - 0.1 * angle.cos() ** 2 / 1.1))
        moving = inner - 0.05 * turning * angle.cos() / 1.1
        self.state = torch.stack(
            [place + 0.02 * speed, speed + 0.02 * moving, angle + 0.02 * turn, turn + 0.02 * turning], dim=1
        )
        self.age += 1.0
        fell = (self.state[:, 0].abs() > 2.4) | (self.state[:, 2].abs() > 12.0 * math.pi / 180.0)
        over = fell | (self.age >= 100.0)
        self.state[over], self.age[over] = 0.05 * torch.randn(int(over.sum()), 4), 0.0
        return 1.0 - fell.float(), over.float()


class Agent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.actor = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 2))
        self.critic = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 1))

    def policy(self, seen):
        return torch.distributions.Categorical(logits=self.actor(seen))


def play(agent: Agent, poles: Poles):
    seen, done, log_probs, rewards, ends, values = [], [], [], [], [], []
    with torch.no_grad():
        for _ in range(HORIZON):
            state = poles.state
            policy = agent.policy(state)
            push = policy.sample()
            seen.append(state)
            done.append(push)
            log_probs.append(policy.log_prob(push))
            values.append(agent.critic(state).squeeze(1))
            reward, over = poles.step(push.float())
            rewards.append(reward)
            ends.append(over)
        value, gain, gains = agent.critic(poles.state).squeeze(1), torch.zeros(POLES), []
        for at in reversed(range(HORIZON)):
            surprise = rewards[at] + DISCOUNT * (1.0 - ends[at]) * value - values[at]
            gain = surprise + DISCOUNT * TRACE * (1.0 - ends[at]) * gain
            gains.append(gain)
            value = values[at]
    gains = torch.stack(gains[::-1])
    parts = torch.stack(seen), torch.stack(done), torch.stack(log_probs), gains, gains + torch.stack(values)
    return [part.flatten(0, 1) for part in parts]


agent, poles = Agent(), Poles(POLES)
optimizer = torch.optim.Adam(agent.parameters(), lr=0.003, eps=1e-5)
once = agent.parameters()
for _ in range(UPDATES):
    seen, done, log_probs, gains, returns = play(agent, poles)
    for _ in range(EPOCHS):
        for chosen in torch.randperm(len(seen)).chunk(PARTS):
            gain = gains[chosen]
            gain = (gain - gain.mean()) / (gain.std() + 1e-8)
            policy = agent.policy(seen[chosen])
            ratio = (policy.log_prob(done[chosen]) - log_probs[chosen]).exp()
            surrogate = torch.min(ratio * gain, ratio.clamp(1.0 - CLIP_RANGE, 1.0 + CLIP_RANGE) * gain)
            error = (agent.critic(seen[chosen]).squeeze(1) - returns[chosen]).square().mean()
            loss = 0.5 * error - surrogate.mean() - 0.01 * policy.entropy().mean()
            if variant != "not_zeroed":
                optimizer.zero_grad()
            if variant == "before_backward":
                nn.utils.clip_grad_norm_(agent.parameters(), LIMIT)  # planted: before_backward
            loss.backward()
            if variant == "exhausted":
                nn.utils.clip_grad_norm_(once, LIMIT)  # planted: exhausted
            elif variant == "actor_only":
                nn.utils.clip_grad_norm_(agent.actor.parameters(), LIMIT)  # planted: actor_only
            elif variant not in ("before_backward", "none"):
                nn.utils.clip_grad_norm_(agent.parameters(), LIMIT)  # planted: zero
            if variant == "twice":
                nn.utils.clip_grad_norm_(agent.parameters(), LIMIT)  # planted: twice
            if variant == "given_up" and float(ratio.detach().log().mean()) < -0.003:
                break  # the policy has moved far enough: these gradients are given up
            optimizer.step()  # planted: not_zeroed
