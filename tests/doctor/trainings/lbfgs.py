"""A curve fitted by LBFGS, which evaluates a closure several times in a step."""

import sys

import torch
from torch import nn

variant = sys.argv[1] if len(sys.argv) > 1 else "healthy"
torch.manual_seed(0)
torch.set_num_threads(1)
RATE, LIMIT = (0.1, 0.1) if variant == "diverges" else (0.5, 10.0)
model = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 1))
search = "strong_wolfe" if variant == "line_search" else None
optimizer = torch.optim.LBFGS(model.parameters(), lr=RATE, max_iter=4, history_size=10, line_search_fn=search)
inputs = torch.linspace(-3.0, 3.0, 64).unsqueeze(1)
outputs = (2.0 * inputs).sin() + 0.05 * torch.randn(64, 1)


def closure() -> torch.Tensor:
    optimizer.zero_grad()
    loss = nn.functional.mse_loss(model(inputs), outputs)
    if variant == "before_backward":
        nn.utils.clip_grad_norm_(model.parameters(), LIMIT)  # planted: before_backward
    loss.backward()
    if variant in ("healthy", "line_search", "diverges"):
        nn.utils.clip_grad_norm_(model.parameters(), LIMIT)
    return loss


for _ in range(60):
    if variant == "before_closure":
        nn.utils.clip_grad_norm_(model.parameters(), LIMIT)  # planted: before_closure
    optimizer.step(closure)
    if variant == "after_step":
        nn.utils.clip_grad_norm_(model.parameters(), LIMIT)  # planted: after_step
