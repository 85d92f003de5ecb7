"""Clips by gradclip."""

import torch
from net import batches, loss_of, net

import gradclip

max_norm = 2.0
model = net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
gradclip.attach(optimizer, gradclip.ClipGradByGlobalNorm(max_norm))
for batch in batches():
    optimizer.zero_grad()
    loss_of(model, batch).backward()
    optimizer.step()
