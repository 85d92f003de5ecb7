"""Under DistributedDataParallel the gradients are whole when the optimizer steps: the hook needs nothing more."""

import os
import warnings

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.fsdp import FullyShardedDataParallel, ShardingStrategy
from torch.nn.parallel import DistributedDataParallel

from effort import LONG
from gradclip import ClipGradByGlobalNorm, GradclipWarning, SkipSpikes
from gradclip.torch import attach, clip_grad_norm_
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


def clip_pieces(rank, world, folder, strategy, original):
    """What a rule says of gradients that FullyShardedDataParallel has cut, or has left whole."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    model = FullyShardedDataParallel(
        make_model(), device_id=torch.device("cpu"), sharding_strategy=strategy, use_orig_params=original
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
    torch.save((words, after, clipper.step), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


WAYS = [
    (strategy, original)
    for strategy in (ShardingStrategy.FULL_SHARD, ShardingStrategy.NO_SHARD)
    for original in (True, False)
]


@pytest.mark.parametrize(("strategy", "original"), WAYS if LONG else WAYS[::3], ids=str)
def test_pieces_of_gradients_are_refused_and_whole_ones_are_clipped(tmp_path, strategy, original):
    mp.spawn(clip_pieces, (2, str(tmp_path), strategy, original), nprocs=2)
    for rank in range(2):
        words, after, steps = torch.load(tmp_path / f"{rank}.pt")
        if strategy is ShardingStrategy.NO_SHARD:
            assert (words, steps) == ([], 1)
            assert after == pytest.approx(1e-3, rel=1e-5)
        else:
            assert len(words) == 2
            assert all("FullyShardedDataParallel has cut: call model.clip_grad_norm_(max_norm)" in one for one in words)
            assert after > 1e-3


def give_losses(rank, world, folder):
    """The warnings of a clipper that is given a loss in each step."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    model = make_model()
    clipper = attach(torch.optim.SGD(model.parameters(), lr=0.1), SkipSpikes(loss=True))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for step in range(3):
            x, y = batch(step)
            loss = ((model(x) - y) ** 2).mean()
            loss.backward()
            clipper.give(loss=loss)
            clipper.optimizers[0].step()
    torch.save([str(one.message) for one in said if one.category is GradclipWarning], f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_losses_that_each_process_gives_itself_are_warned_of_once(tmp_path):
    for world, expected in ((1, 0), (2, 1)):
        folder = tmp_path / str(world)
        folder.mkdir()
        mp.spawn(give_losses, (world, str(folder)), nprocs=world)
        words = torch.load(folder / "0.pt")
        assert len(words) == expected
        assert all("each process decides by the loss that it was given itself" in one for one in words)
