"""Clips by gradclip's explicit forms, one after another, and by a norm that was taken before."""

import torch
from net import batches, loss_of, net

import gradclip.torch
from gradclip import ClipGradByNorm

model = net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
clipper = gradclip.torch.Clipper(ClipGradByNorm(1.0))
max_grad_norm = 0.4
for number, batch in enumerate(batches()):
    optimizer.zero_grad()
    loss_of(model, batch).backward()
    if number % 3 == 0:
        clipper.clip_(model.parameters())
    elif number % 3 == 1:
        gradclip.torch.clip_grad_norm_(model.parameters(), 1.5)
    else:
        norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters()])
        torch.nn.utils.clip_grads_with_norm_(model.parameters(), max_norm=1.5, total_norm=norm)
    optimizer.step()
