"""Two stages of a pipeline: each process has the layers of its stage; the norm is that of both.

Run it on CPUs: torchrun --nproc-per-node=2 examples/pipeline.py
"""

import torch
import torch.distributed as dist
from torch.distributed.pipelining import PipelineStage, ScheduleGPipe
from torch.nn import GELU, Embedding, Linear, Sequential
from torch.nn.functional import cross_entropy

import gradclip

SYMBOLS = 32


def make_model() -> Sequential:
    return Sequential(Embedding(SYMBOLS, 64), Linear(64, 128), GELU(), Linear(128, SYMBOLS))


def main() -> None:
    dist.init_process_group("gloo")
    rank, last = dist.get_rank(), dist.get_world_size() - 1
    torch.manual_seed(0)  # the same first weights and batches in both processes
    model = make_model()
    layers = model[:2] if rank == 0 else model[2:]
    stage = PipelineStage(layers, rank, num_stages=2, device=torch.device("cpu"))
    schedule = ScheduleGPipe(stage, n_microbatches=4, loss_fn=cross_entropy)
    optimizer = torch.optim.SGD(layers.parameters(), lr=0.5, momentum=0.9)
    rule = gradclip.ClipGradByGlobalNorm(0.5)
    clipper = gradclip.attach(optimizer, rule, model=layers, pipeline=dist.group.WORLD)

    for step in range(10):
        symbols, losses = torch.randint(SYMBOLS, (256,)), []
        optimizer.zero_grad()
        if rank == last:
            schedule.step(target=(5 * symbols + 3) % SYMBOLS, losses=losses)  # the next symbol in a sequence
        else:
            schedule.step(symbols)
        optimizer.step()  # clips, then updates
        if rank == last:
            loss = torch.stack(losses).mean().item()
            print(f"step {step}  loss {loss:.4f}  norm {clipper.last.norm_before:.6f}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
