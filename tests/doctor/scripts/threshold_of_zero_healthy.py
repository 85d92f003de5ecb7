"""Leaves the call away where 0 means "off"."""

import torch
from net import batches, loss_of, net

MAX_NORM = 0.0

model = net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
for batch in batches():
    optimizer.zero_grad()
    loss_of(model, batch).backward()
    if MAX_NORM > 0.0:
        torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
    optimizer.step()
