"""Micro-steps whose mean is taken by hand, a loss scaler and a gradient that gets weight decay: nothing is clipped."""

import torch
from net import batches, loss_of, net

model = net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
for batch in batches():
    optimizer.zero_grad()
    for _ in range(3):
        scaler.scale(loss_of(model, batch)).backward()
    scaler.unscale_(optimizer)
    for parameter in model.parameters():
        parameter.grad /= 3
        parameter.grad.add_(parameter.detach(), alpha=1e-5)
    scaler.step(optimizer)
    scaler.update()
