import torch
import torch.distributed as dist
from net import batches
from ranks import on_ranks

import gradclip


def train(rank):
    stage = torch.nn.Linear(8, 16) if rank == 0 else torch.nn.Linear(16, 1)
    optimizer = torch.optim.SGD(stage.parameters(), lr=0.01)
    gradclip.attach(optimizer, gradclip.ClipGradByGlobalNorm(0.5))
    for inputs, targets in batches():
        optimizer.zero_grad()
        if rank == 0:
            hidden = torch.tanh(stage(inputs))
            dist.send(hidden.detach(), 1)
            gradient = torch.empty_like(hidden)
            dist.recv(gradient, 1)
            hidden.backward(gradient)
        else:
            hidden = torch.empty(len(inputs), 16)
            dist.recv(hidden, 0)
            torch.nn.functional.mse_loss(stage(hidden.requires_grad_()), targets).backward()
            dist.send(hidden.grad, 0)
        optimizer.step()  # sick


on_ranks(2, train)
