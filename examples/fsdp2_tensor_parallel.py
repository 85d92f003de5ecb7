"""FSDP2 over tensor parallelism: four processes in two rows, each with a piece of a piece of every matrix.

Run it on CPUs: torchrun --nproc-per-node=4 examples/fsdp2_tensor_parallel.py
"""

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, SequenceParallel, parallelize_module
from torch.nn import Embedding, LayerNorm, Linear, Module
from torch.nn.functional import cross_entropy, gelu

import gradclip

SYMBOLS = 32
PLAN = {  # between the matrices each process has a part of the sequence, and the whole LayerNorm for it
    "embedding": RowwiseParallel(input_layouts=Replicate(), output_layouts=Shard(1)),
    "norm": SequenceParallel(),
    "up": ColwiseParallel(input_layouts=Shard(1)),
    "down": RowwiseParallel(output_layouts=Shard(1)),
    "head": ColwiseParallel(input_layouts=Shard(1), output_layouts=Replicate()),
}


class Model(Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.norm = Embedding(SYMBOLS, 64), LayerNorm(64)
        self.up, self.down, self.head = Linear(64, 128), Linear(128, 64), Linear(64, SYMBOLS)

    def forward(self, symbols: torch.Tensor) -> torch.Tensor:
        x = self.embedding(symbols)
        scores = self.head(x + self.down(gelu(self.up(self.norm(x)))))
        return cross_entropy(scores.flatten(0, 1), (5 * symbols + 3).flatten() % SYMBOLS)


def main() -> None:
    dist.init_process_group("gloo")
    torch.manual_seed(0)  # the same first weights and batches in all processes
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
    model = Model()
    parallelize_module(model, mesh["tensor"], PLAN)
    fully_shard(model, mesh=mesh["data"])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    clipper = gradclip.attach(optimizer, gradclip.ClipGradByGlobalNorm(1.0), model=model)

    for step in range(10):
        symbols = torch.randint(SYMBOLS, (32, 8)).chunk(2)[mesh.get_local_rank("data")]  # each row has a part of them
        loss = model(symbols)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()  # clips, then updates
        mean = loss.detach() / 2
        dist.all_reduce(mean, group=mesh.get_group("data"))
        if dist.get_rank() == 0:
            print(f"step {step}  loss {mean.item():.4f}  norm {clipper.last.norm_before:.6f}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
