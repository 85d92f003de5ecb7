import torch
from net import batches, loss_of, net
from ranks import on_ranks
from torch.distributed.fsdp import fully_shard


def train(rank):
    model = fully_shard(net())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for inputs, targets in batches():
        optimizer.zero_grad()
        loss_of(model, (inputs[rank::2], targets[rank::2])).backward()
        norm = torch.stack([parameter.grad.to_local().norm() for parameter in model.parameters()]).norm()
        for parameter in model.parameters():
            parameter.grad.mul_((0.3 / (norm + 1e-6)).clamp(max=1.0).item())
        optimizer.step()  # sick


on_ranks(2, train)
