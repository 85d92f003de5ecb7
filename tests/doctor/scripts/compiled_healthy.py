"""A compiled model, and a compiled step of the optimizer."""

import torch
from net import batches, loss_of, net

model = net()
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
compiled = torch.compile(model, backend="aot_eager")
step = torch.compile(optimizer.step, backend="aot_eager")
for batch in batches():
    optimizer.zero_grad()
    loss_of(compiled, batch).backward()
    torch.nn.utils.clip_grad_norm_(compiled.parameters(), 1.0)
    step()
