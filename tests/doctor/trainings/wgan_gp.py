"""A Wasserstein GAN with a gradient penalty, whose critic makes three steps for each one of the generator."""

import sys

import torch
from torch import nn

variant = sys.argv[1] if len(sys.argv) > 1 else "healthy"
torch.manual_seed(0)
torch.set_num_threads(1)
ROUNDS, CRITIC_STEPS, BATCH = 40, 3, 32
generator = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 2))
critic = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 1))
generating = torch.optim.Adam(generator.parameters(), lr=0.002, betas=(0.5, 0.9))
judging = torch.optim.Adam(critic.parameters(), lr=0.002, betas=(0.5, 0.9))


def points() -> torch.Tensor:
    return torch.randn(BATCH, 2) * torch.tensor([0.3, 1.0]) + torch.tensor([2.0, -1.0])


def penalty(real: torch.Tensor, made: torch.Tensor) -> torch.Tensor:
    share = torch.rand(BATCH, 1)
    between = (share * real + (1.0 - share) * made).requires_grad_()
    (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    return (slope.norm(dim=1) - 1.0).square().mean()


for _ in range(ROUNDS):
    for _ in range(CRITIC_STEPS):
        real, made = points(), generator(torch.randn(BATCH, 4)).detach()
        loss = critic(made).mean() - critic(real).mean()
        if variant != "weight_clamp":
            loss = loss + 10.0 * penalty(real, made)
        judging.zero_grad()
        loss.backward()
        if variant not in ("after_step", "none", "weight_clamp", "generator_only"):
            nn.utils.clip_grad_norm_(critic.parameters(), 0.5)  # planted: critic_only
        judging.step()
        if variant == "after_step":
            nn.utils.clip_grad_norm_(critic.parameters(), 0.5)  # planted: after_step
        if variant == "weight_clamp":
            for p in critic.parameters():
                p.data.clamp_(-0.1, 0.1)
    generating.zero_grad()
    score = -critic(generator(torch.randn(BATCH, 4))).mean()
    score.backward()
    if variant not in ("critic_only", "none", "weight_clamp"):
        nn.utils.clip_grad_norm_(generator.parameters(), 0.2)  # planted: generator_only
    generating.step()
