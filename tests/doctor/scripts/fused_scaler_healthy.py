"""A fused optimizer, which divides by the loss scale itself, and leaves steps out that overflow."""

import torch
from net import batches, loss_of, net

model = net()
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)
scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
for batch in batches():
    optimizer.zero_grad()
    scaler.scale(100.0 * loss_of(model, batch)).backward()
    scaler.step(optimizer)
    scaler.update()
