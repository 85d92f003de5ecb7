"""Processes that train together, forked here: torchrun starts each Python anew, which takes seconds.

One that hangs is killed after a minute, and shows where it was.
"""

import faulthandler
import os
import sys
from datetime import timedelta

import torch.distributed as dist

LONGEST = 60


def on_ranks(world, train):
    """Run `train(rank)` in so many processes, of which this one is the first."""
    children = []
    for rank in range(1, world):
        child = os.fork()
        if not child:
            in_group(train, rank, world)
            sys.exit()
        children.append(child)
    in_group(train, 0, world)
    for child in children:
        os.waitpid(child, 0)


def in_group(train, rank, world):
    faulthandler.dump_traceback_later(LONGEST, exit=True)
    place = f"file://{os.path.abspath('store')}"
    dist.init_process_group("gloo", init_method=place, rank=rank, world_size=world, timeout=timedelta(seconds=LONGEST))
    train(rank)
    dist.destroy_process_group()
