"""Clips by code of its own, and has a range of another kind of clipping among its options."""

import torch
from net import batches, loss_of, net

MAX_NORM = 2.0
clip_range = 0.2
model = net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
for batch in batches():
    optimizer.zero_grad()
    loss_of(model, batch).backward()
    norm = torch.linalg.vector_norm(torch.stack([p.grad.norm() for p in model.parameters()]))
    for p in model.parameters():
        p.grad.mul_(min(1.0, MAX_NORM / (float(norm) + 1e-6)))
    optimizer.step()
