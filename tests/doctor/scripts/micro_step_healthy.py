"""Accumulates over four batches and clips the sum."""

import torch
from net import batches, loss_of, net

model = net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
for number, batch in enumerate(batches(240), 1):
    (loss_of(model, batch) / 4).backward()
    if number % 4 == 0:
        torch.nn.utils.clip_grad_norm_(model.parameters(), 2.0)
        optimizer.step()
        optimizer.zero_grad()
