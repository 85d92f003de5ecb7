"""Gradients that are zeroed by hand, in each of the ways in which people do it; one optimizer is fed by two losses."""

import torch
from net import batches, loss_of, net

model, judge = net(), net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
judging = torch.optim.SGD(judge.parameters(), lr=0.001)
for number, batch in enumerate(batches()):
    for parameter in model.parameters():
        if number % 3 == 0 or parameter.grad is None:
            parameter.grad = None
        elif number % 3 == 1:
            parameter.grad.data.zero_()
        else:
            parameter.grad.zero_()
    loss_of(model, batch).backward()
    loss_of(model, batch).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
    optimizer.step()
    (loss_of(model, batch) + judge(batch[0]).mean()).backward()  # the gradients of the model are zeroed, unused
    torch.nn.utils.clip_grad_norm_(judge.parameters(), 0.1)
    judging.step()
    judging.zero_grad()
