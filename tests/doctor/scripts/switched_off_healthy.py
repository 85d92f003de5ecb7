"""Has an option for clipping, which is off."""

import argparse

import torch
from net import batches, loss_of, net

parser = argparse.ArgumentParser()
parser.add_argument("--grad-clip", type=float, default=0.0)
options = parser.parse_args()
model = net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
for batch in batches():
    optimizer.zero_grad()
    loss_of(model, batch).backward()
    if options.grad_clip:
        torch.nn.utils.clip_grad_norm_(model.parameters(), options.grad_clip)
    optimizer.step()
