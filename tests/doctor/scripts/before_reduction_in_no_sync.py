import torch
from net import batches, loss_of, net
from ranks import on_ranks
from torch.nn.parallel import DistributedDataParallel


def train(rank):
    model = DistributedDataParallel(net())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for inputs, targets in batches():
        optimizer.zero_grad()
        with model.no_sync():
            loss_of(model, (inputs[rank::4], targets[rank::4])).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)  # sick
        loss_of(model, (inputs[rank + 2 :: 4], targets[rank + 2 :: 4])).backward()
        optimizer.step()


on_ranks(2, train)
