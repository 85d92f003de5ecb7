"""Two optimizers for one model, of which one is clipped."""

import torch
from net import batches, loss_of, net

model = net()
first = torch.optim.SGD(model[0].parameters(), lr=0.01)
second = torch.optim.AdamW(model[2].parameters(), lr=0.01)
for batch in batches():
    model.zero_grad()
    loss_of(model, batch).backward()
    torch.nn.utils.clip_grad_norm_(model[0].parameters(), 0.5)  # sick
    first.step()
    second.step()
