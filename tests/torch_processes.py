"""What processes of one group do with a clip, two and one alone: run as a script, it prints how each case ended."""

from __future__ import annotations

import json
import multiprocessing
import sys
import warnings

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.fsdp import FullyShardedDataParallel, ShardingStrategy
from torch.nn.parallel import DistributedDataParallel

from gradclip import ClipGradByGlobalNorm, GradclipWarning, SkipSpikes
from gradclip.torch import attach, clip_grad_norm_
from training import RULE, batch, make_model


def trained():
    """The parameters after three steps, of each of which a process has its part, and the last norm."""
    rank, world = dist.get_rank(), dist.get_world_size()
    model = DistributedDataParallel(make_model())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    clipper = attach(optimizer, RULE)
    for step in range(3):
        x, y = (part.chunk(world)[rank] for part in batch(step))
        optimizer.zero_grad()
        ((model(x) - y) ** 2).mean().backward()
        optimizer.step()
    flat = torch.cat([p.detach().flatten() for p in model.parameters()])
    return flat.tolist(), clipper.last.norm_before


def clip_pieces(strategy, original):
    """What a rule says of gradients that FullyShardedDataParallel has cut, or has left whole."""
    model = FullyShardedDataParallel(
        make_model(),
        device_id=torch.device("cpu"),
        sharding_strategy=ShardingStrategy[strategy],
        use_orig_params=original,
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    clipper = attach(optimizer, ClipGradByGlobalNorm(1e-3), model=model)
    x, y = batch(0)
    ((model(x) - y) ** 2).mean().backward()
    words = []
    for clip in (optimizer.step, lambda: clip_grad_norm_(list(model.parameters()), 1e-3)):
        try:
            clip()
        except TypeError as error:
            words.append(str(error))
    after = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm().item()
    return words, after, clipper.step


def give_losses():
    """The warnings of a clipper that is given a loss in each step."""
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    clipper = attach(optimizer, SkipSpikes(loss=True))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for step in range(3):
            x, y = batch(step)
            loss = ((model(x) - y) ** 2).mean()
            loss.backward()
            clipper.give(loss=loss)
            optimizer.step()
    return [str(one.message) for one in said if one.category is GradclipWarning]


CASES = {"trained": trained, "losses": give_losses}


def work(rank, world, folder, ways, results):
    dist.init_process_group("gloo", init_method=f"file://{folder}/store of {world}", rank=rank, world_size=world)
    found = {name: case() for name, case in CASES.items()}
    pieces = [clip_pieces(*way) for way in ways] if world == 2 else []
    results.put((rank, {**found, "pieces": pieces}))
    dist.destroy_process_group()


def ended(world, *arguments):
    """How the cases ended in each of the processes of a group of this size."""
    results = multiprocessing.get_context("fork").SimpleQueue()
    mp.start_processes(work, (world, *arguments, results), nprocs=world, start_method="fork")
    found = dict(results.get() for _ in range(world))
    return [found[rank] for rank in range(world)]


if __name__ == "__main__":
    folder, ways = sys.argv[1], json.loads(sys.argv[2])
    print(json.dumps({world: ended(world, folder, ways) for world in (1, 2)}))
