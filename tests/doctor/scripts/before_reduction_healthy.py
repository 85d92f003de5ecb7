"""What looks alike: reduced by hand before the clip, and by DDP in the last of the backward passes of a step."""

import torch
import torch.distributed as dist
from net import batches, loss_of, net
from ranks import on_ranks
from torch.nn.parallel import DistributedDataParallel


def reduced_by_hand(model, optimizer, rank, batch):
    inputs, targets = batch
    loss_of(model, (inputs[rank::2], targets[rank::2])).backward()
    for parameter in model.parameters():
        dist.all_reduce(parameter.grad)
        parameter.grad /= 2


def reduced_at_last(model, optimizer, rank, batch):
    inputs, targets = batch
    with model.no_sync():
        loss_of(model, (inputs[rank::4], targets[rank::4])).backward()
    loss_of(model, (inputs[rank + 2 :: 4], targets[rank + 2 :: 4])).backward()


def apart(model, optimizer, rank, batch):
    """Each rank trains by itself, and they take the mean of their weights now and then."""
    inputs, targets = batch
    loss_of(model, (inputs[rank::2], targets[rank::2])).backward()
    for parameter in model.parameters():
        dist.all_reduce(parameter.data)
        parameter.data /= 2


def train(rank):
    models = [net(), DistributedDataParallel(net()), net()]
    for model, make in zip(models, [reduced_by_hand, reduced_at_last, apart], strict=True):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        for batch in batches():
            optimizer.zero_grad()
            make(model, optimizer, rank, batch)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()


on_ranks(2, train)
