"""Clips in the forward part, when there is nothing to clip yet."""

import torch
from net import batches, loss_of, net
from torch.nn.utils import clip_grad_norm_

model = net()
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)


def train(batch) -> torch.Tensor:
    optimizer.zero_grad(set_to_none=False)
    loss = loss_of(model, batch)
    clip_grad_norm_(model.parameters(), 2.0)  # sick
    return loss


for batch in batches():
    train(batch).backward()
    optimizer.step()
