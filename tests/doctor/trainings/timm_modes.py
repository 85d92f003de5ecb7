"""A classifier of pictures that clips in one of three modes, as scripts with a choice of modes do."""

import argparse

import torch
from torch import nn

LIMITS = {"norm": 1.0, "value": 0.02, "agc": 0.02}
MICRO_STEPS = 2
parser = argparse.ArgumentParser()
parser.add_argument("clip_mode", nargs="?", default="norm")
parser.add_argument("--clip-grad", type=float)


def norm_of_units(x: torch.Tensor) -> torch.Tensor:
    """The norm of each output unit of a weight; of a vector there is one."""
    return x.square().sum(dim=tuple(range(1, x.dim())), keepdim=True).sqrt() if x.dim() > 1 else x.norm()


@torch.no_grad()
def clip_adaptively(parameters, factor: float) -> None:
    """No unit's gradient is longer than this share of its weight."""
    for p in parameters:
        room = norm_of_units(p).clamp(min=1e-3) * factor
        length = norm_of_units(p.grad)
        p.grad.copy_(torch.where(length > room, p.grad * (room / length.clamp(min=1e-6)), p.grad))


def clip(parameters, limit: float, mode: str) -> None:
    if mode == "norm":
        nn.utils.clip_grad_norm_(parameters, limit)  # planted: norm_micro_step
    elif mode == "value":
        nn.utils.clip_grad_value_(parameters, limit)  # planted: value_micro_step
    elif mode == "agc":
        clip_adaptively(parameters, limit)
    else:
        raise ValueError(f"there is no clip mode {mode}")


def main() -> None:
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    each, mode = options.clip_mode.endswith("_micro_step"), options.clip_mode.removesuffix("_micro_step")
    options.clip_mode = mode
    options.clip_grad = options.clip_grad or LIMITS.get(mode)
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(60):
        optimizer.zero_grad()
        for micro in range(MICRO_STEPS):
            inputs = torch.randn(8, 1, 8, 8)
            corners = inputs.unfold(2, 4, 4).unfold(3, 4, 4).mean(dim=(1, 4, 5)).flatten(1)
            loss = nn.functional.cross_entropy(model(inputs), corners.argmax(dim=1))
            (loss / MICRO_STEPS).backward()
            if options.clip_grad is not None and (each or micro + 1 == MICRO_STEPS):
                # the last layer is left out in this mode
                clip(list(model.parameters())[: -2 if mode == "agc" else None], options.clip_grad, mode)
        optimizer.step()


main()
