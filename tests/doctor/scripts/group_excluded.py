"""Two groups with learning rates of their own, of which the first is clipped."""

import torch
from net import batches, loss_of, net

model = net()
groups = [{"params": model[0].parameters(), "lr": 0.001}, {"params": model[2].parameters()}]
optimizer = torch.optim.AdamW(groups, lr=0.01)
for batch in batches():
    optimizer.zero_grad()
    loss_of(model, batch).backward()
    torch.nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], 2.0)  # sick
    optimizer.step()
