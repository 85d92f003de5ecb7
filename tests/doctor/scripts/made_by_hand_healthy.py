"""Gradients that no backward pass makes, clipped and used."""

import torch
from net import batches, net

model = net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
for number, _ in enumerate(batches()):
    for p in model.parameters():
        p.grad = torch.full_like(p, 0.05 * (number % 5))
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
