"""A small training that is the same whenever it is run, to compare ways of clipping by the bits of its parameters."""

import torch
from torch import nn

import gradclip
from gradclip.torch import Clipper

RULE = gradclip.ClipGradByGlobalNorm(0.05)
FUSED = [
    (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "fused": True}),
    (torch.optim.Adam, {"lr": 0.01, "fused": True}),
    (torch.optim.AdamW, {"lr": 0.01, "fused": True}),
    (torch.optim.Adagrad, {"lr": 0.1, "fused": True}),
]
OPTIMIZERS = [
    *FUSED,
    (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
    (torch.optim.SGD, {"lr": 0.1, "foreach": True}),
    (torch.optim.Adam, {"lr": 0.01}),
    (torch.optim.AdamW, {"lr": 0.01, "foreach": True}),
    (torch.optim.RMSprop, {"lr": 0.01}),
    (torch.optim.Adafactor, {"lr": 0.01}),
]


def make_model(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))


def batch(step):
    generator = torch.Generator().manual_seed(step)
    return torch.randn(32, 8, generator=generator), torch.randn(32, 4, generator=generator)


def backward(model, step, factor=1.0):
    x, y = batch(step)
    loss = ((model(x) - y) ** 2).mean() * factor
    loss.backward()
    return loss


def parameters_after(model, optimizer, steps=5, before_step=None):
    """The parameters after `steps` of plain training, with `before_step` called between backward and step."""
    for step in range(steps):
        optimizer.zero_grad()
        backward(model, step)
        if before_step is not None:
            before_step()
        optimizer.step()
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def by_hand(kind, options, steps=5, rule=RULE):
    """The same training with the explicit form; and without clipping, to show that clipping changes the result."""
    model = make_model()
    clipped = parameters_after(
        model, kind(model.parameters(), **options), steps, lambda: Clipper(rule).clip_(model.parameters())
    )
    free = make_model()
    unclipped = parameters_after(free, kind(free.parameters(), **options), steps)
    assert not torch.equal(clipped, unclipped)
    return clipped
