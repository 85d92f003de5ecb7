"""Gives up the gradients of every third batch after they were clipped, and clips those of the next one."""

import torch
from net import batches, loss_of, net

model = net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
for number, batch in enumerate([*batches(), *batches()]):
    optimizer.zero_grad()
    loss_of(model, batch).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 2.0)
    if number % 3 == 2:
        continue
    optimizer.step()
