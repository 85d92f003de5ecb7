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
        norm = torch.nn.utils.get_total_norm([parameter.grad.to_local() for parameter in model.parameters()])
        torch.nn.utils.clip_grads_with_norm_(model.parameters(), 0.3, norm)  # sick
        optimizer.step()


on_ranks(2, train)
