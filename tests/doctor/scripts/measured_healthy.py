"""Asks for the norm by an infinite limit, before the clip and after the step."""

import torch
from net import batches, loss_of, net

model = net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
for batch in batches():
    optimizer.zero_grad()
    loss_of(model, batch).backward()
    before = torch.nn.utils.clip_grad_norm_(model.parameters(), float("inf"))
    torch.nn.utils.clip_grad_norm_(model.parameters(), 2.0)
    optimizer.step()
    after = torch.nn.utils.clip_grad_norm_(model.parameters(), 1e9)
    assert after <= before
