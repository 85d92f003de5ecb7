"""Ranks that make different numbers of steps, each on a model of its own: rank 0 the most, or the fewest."""

import sys

import torch
from ranks import on_ranks


def train(rank):
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(abs(int(sys.argv[1]) - 20 * rank)):
        optimizer.zero_grad()
        model(torch.randn(4, 3)).square().mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()


on_ranks(3, train)
