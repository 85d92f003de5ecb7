"""Gradients that nobody zeroes, so that each step has those of all steps before it, too."""

import torch
from net import batches, loss_of, net

model = net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
for batch in batches():
    loss_of(model, batch).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
    optimizer.step()  # sick
