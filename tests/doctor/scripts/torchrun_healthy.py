"""Two processes that train one model together: start it by torchrun --nproc-per-node 2."""

import torch
import torch.distributed as dist
from net import batches, loss_of, net
from torch.nn.parallel import DistributedDataParallel

dist.init_process_group("gloo")
model = DistributedDataParallel(net())
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
for batch in batches():
    optimizer.zero_grad()
    loss_of(model, batch).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 2.0)
    optimizer.step()
dist.barrier()
dist.destroy_process_group()
