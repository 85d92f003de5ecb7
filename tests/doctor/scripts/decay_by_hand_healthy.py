"""Two nets that are updated by hand, one after the other, after a decay of their weights before the clip."""

import torch
from net import batches, loss_of, net

nets = net(), net()
for batch in batches():
    for model in nets:
        model.zero_grad()
    sum(loss_of(model, batch) for model in nets).backward()
    for model in nets:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(0.999)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        for parameter in model.parameters():
            parameter.data.add_(parameter.grad, alpha=-0.01)
