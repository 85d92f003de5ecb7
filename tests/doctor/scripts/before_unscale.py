"""Clips under a GradScaler."""

import torch
from net import batches, loss_of, net

model = net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
for batch in batches():
    optimizer.zero_grad()
    scaler.scale(loss_of(model, batch)).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 128.0)  # sick
    scaler.step(optimizer)
    scaler.update()
