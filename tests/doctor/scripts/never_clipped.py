"""Has an option for clipping."""

import argparse

import torch
from net import batches, loss_of, net

parser = argparse.ArgumentParser()
parser.add_argument("--max-grad-norm", type=float, default=0.3)


def main() -> None:
    options = parser.parse_args()
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for batch in batches():
        optimizer.zero_grad()
        loss_of(model, batch).backward()
        if options.max_grad_norm > 0:
            pass  # sick: to be done
        optimizer.step()


main()
