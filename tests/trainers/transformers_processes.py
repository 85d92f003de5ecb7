"""Hugging Face's Trainer in each of two processes that torchrun starts: `transformers_processes.py ddp|fsdp FOLDER`.

accelerate shards a model on accelerators only. Told that it is to do so here, it does it with the same lines on CPUs.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import FullyShardedDataParallelPlugin
from accelerate.state import PartialState
from accelerate.utils import DistributedType
from torch.distributed.tensor import DTensor
from transformers.trainer_utils import get_last_checkpoint

import gradclip.transformers
from trainers import small
from trainers.transformers_train import STEPS, Ends, trainer


class Interrupted(Exception):
    """What a user does who stops a training."""


def interrupt() -> None:
    raise Interrupted


def train(folder: Path, way: str, what: str) -> Any:
    clip = gradclip.transformers.Clip(small.LEARNT)
    callbacks = [clip, *([Ends(interrupt)] if what == "begin" else [])]
    made = trainer(folder / "saved", *callbacks, per_device_train_batch_size=2, ddp_backend="gloo")
    if way == "fsdp":
        for state in (made.accelerator.state, PartialState()):
            state.distributed_type = DistributedType.FSDP
        made.accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(fsdp_version=2)
        made.is_fsdp_enabled = True
    try:
        made.train(resume_from_checkpoint=get_last_checkpoint(str(folder / "saved")) if what == "resume" else None)
    except Interrupted:
        return None
    parameters = list(made.model_wrapped.parameters())
    assert all(isinstance(p, DTensor) for p in parameters) is (way == "fsdp")
    whole = [p.full_tensor() if isinstance(p, DTensor) else p for p in parameters]
    return [p.detach() for p in whole], clip.state_dict(), made.state.log_history


def main() -> None:
    way, folder = sys.argv[1], Path(sys.argv[2])
    assert train(folder, way, "begin") is None
    weights, memory, logs = train(folder, way, "resume")
    expected, remembered, others = train(folder, way, "through")
    assert memory == remembered
    assert memory["clippers"]["all"]["step"] == STEPS
    assert all(map(torch.equal, weights, expected))
    of_all: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(of_all, memory)
    assert of_all[0] == of_all[1], "the processes remember different things"
    if dist.get_rank() == 0:
        resumed, through = ([log for log in history if "loss" in log] for history in (logs, others))
        assert len(resumed) == len(through) == STEPS
        assert all(log["grad_norm_clipped"] <= log["clip/threshold"] * (1 + 1e-6) for log in through)
        print("as one that went through")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
