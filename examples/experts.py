"""Experts in plain tensors: each process has one of its own, and a copy of the other layers; the norm is that of all.

Run it on CPUs: torchrun --nproc-per-node=2 examples/experts.py
"""

import torch
import torch.distributed as dist
from torch.distributed._functional_collectives import all_to_all_single_autograd
from torch.nn import GELU, Embedding, Linear, Module, Sequential
from torch.nn.functional import cross_entropy

import gradclip

SYMBOLS = 32


class Model(Module):
    def __init__(self, rank: int, world: int) -> None:
        super().__init__()
        torch.manual_seed(1 + rank)  # each process makes an expert of its own
        self.experts = Sequential(Linear(64, 128), GELU(), Linear(128, 64))
        torch.manual_seed(0)  # and the same of everything else
        self.embedding, self.router, self.head = Embedding(SYMBOLS, 64), Linear(64, world), Linear(64, SYMBOLS)

    def forward(self, symbols: torch.Tensor) -> torch.Tensor:
        x = self.embedding(symbols)
        share, expert = self.router(x).softmax(1).max(1)
        order, sent = expert.argsort(), expert.bincount(minlength=self.router.out_features)
        received = torch.empty_like(sent)
        dist.all_to_all_single(received, sent)  # each says how many symbols it sends to whom
        ours, theirs, every = sent.tolist(), received.tolist(), dist.group.WORLD
        answers = self.experts(all_to_all_single_autograd(x[order], theirs, ours, every))
        answers = all_to_all_single_autograd(answers, ours, theirs, every)[order.argsort()]
        return self.head(x + share[:, None] * answers)


def main() -> None:
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    model = Model(rank, world)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    rule = gradclip.ClipGradByGlobalNorm(0.5)
    clipper = gradclip.attach(optimizer, rule, model=model, groups={"experts.*": dist.group.WORLD})

    for step in range(10):
        symbols = torch.randint(SYMBOLS, (256,)).chunk(world)[rank]  # each process has a part of the batch
        loss = cross_entropy(model(symbols), (5 * symbols + 3) % SYMBOLS) / world  # the next symbol in a sequence
        optimizer.zero_grad()
        loss.backward()
        for name, parameter in model.named_parameters():
            if not name.startswith("experts."):
                dist.all_reduce(parameter.grad)  # which DistributedDataParallel would do
        optimizer.step()  # clips, then updates
        mean = loss.detach()
        dist.all_reduce(mean)
        if rank == 0:
            print(f"step {step}  loss {mean.item():.4f}  norm {clipper.last.norm_before:.6f}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
