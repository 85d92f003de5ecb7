"""Clipping by the script's own code, in three ways, which a threshold that is never handed to PyTorch goes with."""

import argparse

import torch
from net import batches, loss_of, net

options = argparse.Namespace(clip_grad=0.5)
model = net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
for number, batch in enumerate(batches()):
    optimizer.zero_grad()
    loss_of(model, batch).backward()
    if number % 3 == 0:
        for parameter in model.parameters():
            parameter.grad.data.clamp_(-0.02, 0.02)
    elif number % 3 == 1:
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), float("inf"))
        for parameter in model.parameters():
            parameter.grad.mul_(0.1 / max(norm.item(), 0.1))
    else:
        for parameter in model.parameters():
            room = 0.01 * parameter.detach().norm() / parameter.grad.norm()
            parameter.grad = parameter.grad * room.clamp(max=1.0)
    optimizer.step()
