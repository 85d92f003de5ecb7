"""Clips by gradclip, and by hand as before."""

import torch
from net import batches, loss_of, net

import gradclip

model = net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
gradclip.attach(optimizer, gradclip.ClipGradByGlobalNorm(2.0))
for batch in batches():
    optimizer.zero_grad()
    loss_of(model, batch).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.5)  # sick
    optimizer.step()
