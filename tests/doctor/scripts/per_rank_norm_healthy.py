"""Sharded models, one after the other: FSDP and tensor parallelism, clipped by PyTorch, by hand and by a rule."""

import torch
from net import batches, loss_of, net
from ranks import on_ranks
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import init_device_mesh
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import gradclip


def by_torch(model):
    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.3)


def by_total(model):
    norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in model.parameters()])
    torch.nn.utils.clip_grads_with_norm_(model.parameters(), 0.3, norm.full_tensor())


def by_hand(model):
    norm = torch.stack([parameter.grad.full_tensor().norm() for parameter in model.parameters()]).norm()
    for parameter in model.parameters():
        parameter.grad.mul_((0.3 / (norm + 1e-6)).clamp(max=1.0).item())


def not_at_all(model):
    pass


def step_on(model, optimizer, batch, clip):
    optimizer.zero_grad()
    loss_of(model, batch).backward()
    clip(model)
    optimizer.step()


def train(rank):
    sharded = [fully_shard(net()) for _ in range(5)]
    tensor_parallel = parallelize_module(
        net(), init_device_mesh("cpu", (2,)), {"0": ColwiseParallel(), "2": RowwiseParallel()}
    )
    clips = [by_torch, by_total, by_hand, not_at_all, not_at_all, by_torch]
    trained = [(model, torch.optim.SGD(model.parameters(), lr=0.01)) for model in (*sharded, tensor_parallel)]
    gradclip.attach(trained[3][1], gradclip.ClipGradByGlobalNorm(0.3))
    gradclip.attach(trained[4][1], gradclip.ClipGradByValue(0.01))
    for (model, optimizer), clip in zip(trained, clips, strict=True):
        for inputs, targets in batches(40):
            whole = model is tensor_parallel
            step_on(model, optimizer, (inputs, targets) if whole else (inputs[rank::2], targets[rank::2]), clip)


on_ranks(2, train)
