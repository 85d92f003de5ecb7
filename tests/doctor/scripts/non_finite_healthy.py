"""A GradScaler with far too large a scale to begin with: it leaves the steps out that overflow."""

import torch
from net import batches, loss_of, net

model = net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.0001)
scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
for batch in batches():
    optimizer.zero_grad()
    scaler.scale(100.0 * loss_of(model, batch)).backward()
    scaler.unscale_(optimizer)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 200.0)
    scaler.step(optimizer)
    scaler.update()
