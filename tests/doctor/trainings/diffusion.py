"""A denoiser of points on a spiral, and a slow copy of its weights, which is the one that would be kept."""

import copy
import sys

import torch
from torch import nn

variant = sys.argv[1] if len(sys.argv) > 1 else "healthy"
torch.manual_seed(0)
torch.set_num_threads(1)
LEVELS, BATCH = 50, 64
RATE = {"explode": 1.5, "explode_dies": 1.5}.get(variant, 0.002)
LIMIT = {"tiny": 0.001, "huge": 1000.0}.get(variant, 0.5)
kept = torch.cumprod(1.0 - torch.linspace(1e-3, 0.2, LEVELS), dim=0)


class Denoiser(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.level = nn.Embedding(LEVELS, 16)
        self.body = nn.Sequential(nn.Linear(18, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 2))

    def forward(self, points, levels):
        return self.body(torch.cat([points, self.level(levels)], dim=1))


def spiral() -> torch.Tensor:
    turn = 3.0 + 6.0 * torch.rand(BATCH)
    return torch.stack([turn.cos(), turn.sin()], dim=1) * turn.unsqueeze(1) / 5.0


model = Denoiser()
average = copy.deepcopy(model)
if variant.startswith("explode"):
    optimizer: torch.optim.Optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
else:
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)

for step in range(120):
    points, noise, levels = spiral(), torch.randn(BATCH, 2), torch.randint(LEVELS, (BATCH,))
    share = kept[levels].unsqueeze(1)
    loss = (model(share.sqrt() * points + (1.0 - share).sqrt() * noise, levels) - noise).square().mean()
    if variant == "explode_dies" and not loss < 1e8:
        raise SystemExit(f"the loss is {loss.item()} in step {step}")
    optimizer.zero_grad()
    if variant == "before_backward":
        nn.utils.clip_grad_norm_(model.parameters(), LIMIT)  # planted: before_backward
    loss.backward()
    if variant == "copy":
        nn.utils.clip_grad_norm_(average.parameters(), LIMIT)  # planted: copy
    elif variant not in ("before_backward", "after_step", "explode", "explode_dies", "none"):
        nn.utils.clip_grad_norm_(model.parameters(), LIMIT)
    optimizer.step()
    if variant == "after_step":
        nn.utils.clip_grad_norm_(model.parameters(), LIMIT)  # planted: after_step
    with torch.no_grad():
        for slow, fast in zip(average.parameters(), model.parameters(), strict=True):
            slow.lerp_(fast, 0.02)
