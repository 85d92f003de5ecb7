"""Trains a part of a model and clips that part; the rest is frozen."""

import torch
from net import batches, loss_of, net

model = net()
model[0].requires_grad_(False)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
for batch in batches():
    optimizer.zero_grad()
    loss_of(model, batch).backward()
    torch.nn.utils.clip_grad_norm_(model[2].parameters(), 2.0)
    optimizer.step()
