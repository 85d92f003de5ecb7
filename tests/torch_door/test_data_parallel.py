"""Under DistributedDataParallel the gradients are whole when the optimizer steps: the hook needs nothing more."""

import os

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from gradclip.torch import attach
from training import RULE, batch, make_model


def train(rank, world, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    model = DistributedDataParallel(make_model())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    clipper = attach(optimizer, RULE)
    for step in range(3):
        x, y = (part.chunk(world)[rank] for part in batch(step))
        optimizer.zero_grad()
        ((model(x) - y) ** 2).mean().backward()
        optimizer.step()
    flat = torch.cat([p.detach().flatten() for p in model.parameters()])
    torch.save((flat, clipper.last.norm_before), f"{folder}/{world}-{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_train_as_one(tmp_path):
    for world in (1, 2):
        os.makedirs(tmp_path / str(world))
        mp.spawn(train, (world, str(tmp_path / str(world))), nprocs=world)
    alone, norm = torch.load(tmp_path / "1" / "1-0.pt")
    for rank in range(2):
        flat, norm_there = torch.load(tmp_path / "2" / f"2-{rank}.pt")
        # the mean of two halves rounds where the mean of the whole does not: a few roundings of float32 in three steps
        torch.testing.assert_close(flat, alone, rtol=2e-6, atol=2e-7)
        assert abs(norm_there - norm) <= 2e-6 * norm
