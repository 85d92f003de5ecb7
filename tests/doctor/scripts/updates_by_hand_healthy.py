"""A model whose parameters are updated by hand, as in the word language model of PyTorch's examples."""

import torch
from net import batches, loss_of, net

model = net()
for batch in batches():
    model.zero_grad()
    loss_of(model, batch).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
    for parameter in model.parameters():
        parameter.data.add_(parameter.grad, alpha=-0.01)
