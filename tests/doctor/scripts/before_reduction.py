import torch
import torch.distributed as dist
from net import batches, loss_of, net
from ranks import on_ranks


def train(rank):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for inputs, targets in batches():
        optimizer.zero_grad()
        loss_of(model, (inputs[rank::2], targets[rank::2])).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)  # sick
        for parameter in model.parameters():
            dist.all_reduce(parameter.grad)
            parameter.grad /= 2
        optimizer.step()


on_ranks(2, train)
