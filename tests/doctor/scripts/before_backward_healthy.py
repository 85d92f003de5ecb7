"""Clips by a function that is called after backward."""

import torch
from net import batches, loss_of, net
from torch.nn.utils import clip_grad_norm_

model = net()
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)


def train(batch) -> None:
    loss = loss_of(model, batch)
    optimizer.zero_grad(set_to_none=False)
    loss.backward()
    clip_grad_norm_(model.parameters(), 2.0)


for batch in batches():
    train(batch)
    optimizer.step()
