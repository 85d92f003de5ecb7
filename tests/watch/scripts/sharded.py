"""Trainings of sharded models on four ranks, one after the other; rank 0 keeps the norms in float64 of each step.

Each has an optimizer of its own, and so a run: by its place in `TRAININGS`.
"""

import hashlib
import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from ranks import on_ranks
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard, init_device_mesh
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, SequenceParallel, parallelize_module

import gradclip
from gradclip.telemetry import Telemetry, jsonl

STEPS = 3
ALIVE = []
"""The models, none of whose places in memory another one is to have."""
LIMIT, VALUE = 0.3, 0.01


def net(width=10):
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(6, width), torch.nn.Tanh(), torch.nn.Linear(width, 3), torch.nn.LayerNorm(3)
    )


def plan():
    rows = RowwiseParallel(output_layouts=Shard(0))
    return {"0": ColwiseParallel(), "2": rows, "3": SequenceParallel(sequence_dim=0)}


def fsdp():
    return fully_shard(net(), mesh=init_device_mesh("cpu", (4,)))


def hybrid():
    return fully_shard(net(), mesh=init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard")))


def tensor_parallel():
    """Of FSDP and tensor parallelism together; the gradients of the layer norm are summed up."""
    model, mesh = net(), init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
    parallelize_module(model, mesh["tensor"], plan())
    return fully_shard(model, mesh=mesh["data"])


def partial():
    """Of tensor parallelism alone: the gradients of the layer norm are sums that nobody has made yet."""
    model, mesh = net(12), init_device_mesh("cpu", (4,))
    return parallelize_module(model, mesh, plan())


def by_torch(model, optimizer):
    torch.nn.utils.clip_grad_norm_(model.parameters(), LIMIT)


def by_hand(model, optimizer):
    every = torch.stack([parameter.grad.full_tensor().norm() for parameter in model.parameters()])
    for parameter in model.parameters():
        parameter.grad.mul_((LIMIT / every.norm()).clamp(max=1.0))


def not_at_all(model, optimizer):
    pass


def told_by(ranks):
    def attach(name, optimizer, rank):
        telemetry = Telemetry(jsonl(f"told-{name}"), tensors=True) if rank in ranks else None
        gradclip.attach(optimizer, gradclip.ClipGradByGlobalNorm(LIMIT), telemetry=telemetry)

    return attach


def by_value(name, optimizer, rank):
    gradclip.attach(optimizer, gradclip.ClipGradByValue(VALUE))


TRAININGS = {
    "fsdp": (fsdp, by_torch, None),
    "unclipped": (fsdp, not_at_all, None),
    "by-hand": (fsdp, by_hand, None),
    "hybrid": (hybrid, by_torch, None),
    "tensor-parallel": (tensor_parallel, by_torch, None),
    "partial": (partial, by_torch, None),
    "by-value": (fsdp, not_at_all, by_value),
    "told-by-all": (fsdp, not_at_all, told_by(range(4))),
    "told-by-rank-0": (tensor_parallel, not_at_all, told_by([0])),
}


def train(name, rank):
    make, clip, attach = TRAININGS[name]
    model = make()
    ALIVE.append(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    if attach is not None:
        attach(name, optimizer, rank)
    norms, largest = [], []
    for step in range(STEPS):
        torch.manual_seed(step if make in (tensor_parallel, partial) else 100 * rank + step)
        optimizer.zero_grad()
        out = model(torch.randn(8, 6))
        (out.full_tensor() if isinstance(out, DTensor) else out).sub(0.5).square().mean().backward()
        gradients = {key: parameter.grad.full_tensor().double() for key, parameter in model.named_parameters()}
        norms.append({key: gradient.norm().item() for key, gradient in gradients.items()})
        largest.append(max(gradient.abs().max().item() for gradient in gradients.values()))
        clip(model, optimizer)
        optimizer.step()
    weights = b"".join(parameter.full_tensor().detach().numpy().tobytes() for parameter in model.parameters())
    return {"norms": norms, "largest": largest, "weights": hashlib.sha256(weights).hexdigest()}


def train_all(rank):
    found = {name: train(name, rank) for name in TRAININGS}
    if rank == 0:
        Path(sys.argv[1]).write_text(json.dumps(found), encoding="utf-8")
    dist.barrier()


on_ranks(4, train_all)
