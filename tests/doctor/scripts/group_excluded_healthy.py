"""Two groups with learning rates of their own, clipped together."""

import torch
from net import batches, loss_of, net

model = net()
groups = [{"params": model[0].parameters(), "lr": 0.001}, {"params": model[2].parameters()}]
optimizer = torch.optim.AdamW(groups, lr=0.01)
for batch in batches():
    optimizer.zero_grad()
    loss_of(model, batch).backward()
    torch.nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 2.0)
    optimizer.step()
