"""Gradients of the inputs are asked for between the clip and the step, and before backward of a scaled loss."""

import torch
from net import batches, loss_of, net

model = net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
for inputs, targets in batches():
    optimizer.zero_grad()
    inputs.requires_grad_()
    scaled = scaler.scale(loss_of(model, (inputs, targets)))
    torch.autograd.grad(scaled, inputs, retain_graph=True)
    scaled.backward()
    scaler.unscale_(optimizer)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
    torch.autograd.grad(model(inputs).sum(), inputs)
    scaler.step(optimizer)
    scaler.update()
