"""A `max_norm` that is one of weights; the sum of losses is divided by the number of words, and a scale by hand."""

import torch
from net import batches, net

max_norm = 0.5
model = net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
for number, (inputs, targets) in enumerate(batches()):
    words = 600 + 7 * (number % 5)
    optimizer.zero_grad()
    loss = (model(inputs) - targets).square().sum() * (words / 16)
    (loss * 1024).backward()
    for parameter in model.parameters():
        parameter.grad.div_(1024)
        parameter.grad /= words
    optimizer.step()
    with torch.no_grad():
        model[2].weight.copy_(torch.renorm(model[2].weight, 2, 0, max_norm))
