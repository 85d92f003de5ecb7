"""Takes 0 for "off", which it is elsewhere."""

import torch
from net import batches, loss_of, net

MAX_NORM = 0.0

model = net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
for batch in batches():
    optimizer.zero_grad()
    loss_of(model, batch).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)  # sick
    optimizer.step()
