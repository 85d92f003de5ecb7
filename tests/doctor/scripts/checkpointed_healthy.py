"""A checkpoint makes its gradients by a backward pass inside the other; the loss scale is on the outer one."""

import torch
from net import batches, net
from torch.utils.checkpoint import checkpoint

model = net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
scaler = torch.amp.GradScaler("cpu", init_scale=65536.0)
for inputs, targets in batches():
    optimizer.zero_grad()
    inputs.requires_grad_()
    loss = torch.nn.functional.mse_loss(checkpoint(model, inputs, use_reentrant=True), targets)
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
    scaler.step(optimizer)
    scaler.update()
