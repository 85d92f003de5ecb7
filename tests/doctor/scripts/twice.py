"""Clips in a function that the loop calls, and in the loop again."""

import torch
from net import batches, loss_of, net

model = net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)


def backward(loss: torch.Tensor) -> None:
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)


for batch in batches():
    optimizer.zero_grad()
    backward(loss_of(model, batch))
    torch.nn.utils.clip_grad_norm_(model.parameters(), 2.0)  # sick
    optimizer.step()
