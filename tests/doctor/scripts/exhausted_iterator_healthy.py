"""Keeps the parameters as a list."""

import torch
from net import batches, loss_of, net

model = net()
parameters = list(model.parameters())
optimizer = torch.optim.SGD(parameters, lr=0.01)
for batch in batches():
    optimizer.zero_grad()
    loss_of(model, batch).backward()
    torch.nn.utils.clip_grad_norm_(parameters, 2.0)
    optimizer.step()
