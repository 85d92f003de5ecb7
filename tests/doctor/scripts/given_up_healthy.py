"""Gives the gradients of some batches up by hand, after they were clipped, and clips those of the next."""

import torch
from net import batches, loss_of, net

model = net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
for number, batch in enumerate(batches(120)):
    loss_of(model, batch).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 2.0)
    if number % 2:
        optimizer.step()
    for p in model.parameters():
        p.grad = None
