"""Clips the two halves of a model, each by itself, and by value before that."""

import torch
from net import batches, loss_of, net

model = net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
for batch in batches():
    optimizer.zero_grad()
    loss_of(model, batch).backward()
    torch.nn.utils.clip_grad_value_(model.parameters(), 3.0)
    torch.nn.utils.clip_grad_norm_(model[0].parameters(), 2.0)
    torch.nn.utils.clip_grad_norm_(model[2].parameters(), 2.0)
    optimizer.step()
