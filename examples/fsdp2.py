"""FSDP2: each process has a piece of each parameter and of its gradient; the norm is that of the whole model.

Run it on CPUs: torchrun --nproc-per-node=2 examples/fsdp2.py
"""

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn import GELU, Embedding, Linear, Sequential
from torch.nn.functional import cross_entropy

import gradclip

SYMBOLS = 32


def make_model() -> Sequential:
    return Sequential(Embedding(SYMBOLS, 64), Linear(64, 128), GELU(), Linear(128, SYMBOLS))


def main() -> None:
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)  # the same first weights and batches in all processes
    mesh = init_device_mesh("cpu", (world,))
    model = make_model()
    for layer in model:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    clipper = gradclip.attach(optimizer, gradclip.ClipGradByGlobalNorm(0.5), model=model)

    for step in range(10):
        symbols = torch.randint(SYMBOLS, (256,)).chunk(world)[rank]  # each process has a part of the batch
        loss = cross_entropy(model(symbols), (5 * symbols + 3) % SYMBOLS)  # the next symbol in a sequence
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()  # clips, then updates
        mean = loss.detach() / world
        dist.all_reduce(mean)
        if rank == 0:
            print(f"step {step}  loss {mean.item():.4f}  norm {clipper.last.norm_before:.6f}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
