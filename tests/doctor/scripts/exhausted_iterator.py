"""Keeps the parameters as an iterator, which the first step uses up."""

import torch
from net import batches, loss_of, net

model = net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
parameters = model.parameters()
for batch in batches():
    optimizer.zero_grad()
    loss_of(model, batch).backward()
    torch.nn.utils.clip_grad_norm_(parameters, 2.0)  # sick
    optimizer.step()
