"""A perturbation of the inputs is trained and clipped by hand, and the model, on purpose, is not clipped."""

import torch
from net import batches, loss_of, net

model = net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
for inputs, targets in batches():
    change = torch.zeros_like(inputs, requires_grad=True)
    loss_of(model, (inputs + change, targets)).backward()
    torch.nn.utils.clip_grad_norm_([change], 1.0)
    change = (change + 0.1 * change.grad).detach()
    optimizer.zero_grad()
    loss_of(model, (inputs + change, targets)).backward()
    optimizer.step()
