"""Gradients of float16, whose norm PyTorch takes in float16."""

import torch
from net import batches, loss_of, net

model = net().half()
optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
for inputs, targets in batches():
    optimizer.zero_grad()
    (40000.0 * loss_of(model, (inputs.half(), targets.half()))).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 50000.0)  # sick
    optimizer.step()
