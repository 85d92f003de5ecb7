"""LBFGS, which evaluates a closure several times in a step."""

import torch
from net import batches, loss_of, net

model = net()
optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=4)
for batch in batches():

    def closure(batch=batch) -> torch.Tensor:
        optimizer.zero_grad()
        loss = loss_of(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 2.0)
        return loss

    optimizer.step(closure)
