"""Under DistributedDataParallel the gradients are whole when the optimizer steps: the hook needs nothing more."""

import json
from pathlib import Path

import pytest
import torch

from effort import LONG
from watching import python

SCRIPT = Path(__file__).parent.parent / "torch_processes.py"
WAYS = [(strategy, original) for strategy in ("FULL_SHARD", "NO_SHARD") for original in (True, False)]
WAYS = WAYS if LONG else WAYS[::3]
"""How FullyShardedDataParallel shards, and whether it keeps the original parameters."""


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """How each case ended in each process of a group, by the size of the group."""
    folder = tmp_path_factory.mktemp("group")
    done = python(str(SCRIPT), str(folder), json.dumps(WAYS), folder=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return {int(world): found for world, found in json.loads(done.stdout).items()}


def test_two_processes_train_as_one(ended):
    (alone, norm), *others = (one["trained"] for one in ended[1] + ended[2])
    assert len(others) == 2
    for flat, norm_there in others:
        # the mean of two halves rounds where the mean of the whole does not: a few roundings of float32 in three steps
        torch.testing.assert_close(torch.tensor(flat), torch.tensor(alone), rtol=2e-6, atol=2e-7)
        assert abs(norm_there - norm) <= 2e-6 * norm


@pytest.mark.parametrize(("strategy", "original"), WAYS, ids=str)
def test_pieces_of_gradients_are_refused_and_whole_ones_are_clipped(ended, strategy, original):
    for one in ended[2]:
        words, after, steps = one["pieces"][WAYS.index((strategy, original))]
        if strategy == "NO_SHARD":
            assert (words, steps) == ([], 1)
            assert after == pytest.approx(1e-3, rel=1e-5)
        else:
            assert len(words) == 2
            assert all("FullyShardedDataParallel has cut: call model.clip_grad_norm_(max_norm)" in one for one in words)
            assert after > 1e-3


@pytest.mark.parametrize(("world", "expected"), [(1, 0), (2, 1)])
def test_losses_that_each_process_gives_itself_are_warned_of_once(ended, world, expected):
    words = ended[world][0]["losses"]
    assert len(words) == expected
    assert all("each process decides by the loss that it was given itself" in one for one in words)
