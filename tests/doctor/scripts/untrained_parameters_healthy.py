"""A model of which a part is updated by hand and clipped by itself, beside the optimizer's."""

import torch
from net import batches, loss_of, net

model = net()
optimizer = torch.optim.Adam(model[2].parameters(), lr=0.01)
for batch in batches():
    model.zero_grad()
    loss_of(model, batch).backward()
    torch.nn.utils.clip_grad_norm_(model[2].parameters(), 0.5)
    torch.nn.utils.clip_grad_norm_(model[0].parameters(), 0.5)
    optimizer.step()
    with torch.no_grad():
        for weight in model[0].parameters():
            weight -= 0.01 * weight.grad
