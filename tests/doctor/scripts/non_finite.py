"""A batch with a number that is none."""

import torch
from net import batches, loss_of, net

model = net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
for number, batch in enumerate(batches()):
    if number == 40:
        batch[0][3, 2] = float("nan")
    optimizer.zero_grad()
    loss_of(model, batch).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 2.0)  # sick
    optimizer.step()
