"""Gradients that are kept as zeros: of a part of the model that is not trained now, which is not clipped either."""

import torch
from net import batches, loss_of, net

max_norm = 3.0
model = net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
for number, batch in enumerate(batches()):
    optimizer.zero_grad(set_to_none=False)
    for parameter in model[0].parameters():
        parameter.requires_grad_(number % 2 == 0)
    loss_of(model, batch).backward()
    torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 0.5)
    optimizer.step()
    with torch.no_grad():
        model[2].weight.copy_(torch.renorm(model[2].weight, 2, 0, max_norm))
