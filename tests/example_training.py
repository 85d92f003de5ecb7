"""A small training, which the examples in the help of the commands and the schemas of their documents are tried on."""

import argparse

import torch

options = argparse.ArgumentParser()
options.add_argument("--epochs", type=int, default=2)
options.add_argument("--seed", type=int, default=0)
options = options.parse_args()
torch.manual_seed(options.seed)
inputs = torch.randn(256, 8)
targets = inputs @ torch.randn(8, 1)
model = torch.nn.Linear(8, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
for epoch in range(options.epochs):
    for _ in range(20):
        batch = torch.randint(len(inputs), (32,))
        loss = torch.nn.functional.mse_loss(model(inputs[batch]), targets[batch])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    accuracy = float(((model(inputs) - targets).abs() < 0.1).float().mean())
    print(f"epoch {epoch}: accuracy {accuracy:.3f}")
