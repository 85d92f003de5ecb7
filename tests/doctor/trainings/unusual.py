"""Trainings that make, combine or use up their gradients in unusual ways, each of which clips rightly."""

import sys

import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

variant = sys.argv[1] if len(sys.argv) > 1 else "healthy"
torch.manual_seed(0)
torch.set_num_threads(1)
model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 2))
second = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1))
parameters = list(model.parameters())
optimizer = torch.optim.SGD(parameters, lr=0.05, momentum=0.9)
second_optimizer = torch.optim.SGD(second.parameters(), lr=0.05)
scaler = torch.amp.GradScaler("cpu", init_scale=256.0, growth_interval=20)


def batch(many: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    inputs = torch.randn(many, 8)
    return inputs, torch.stack([inputs.sum(dim=1), inputs[:, 0] * inputs[:, 1]], dim=1)


def loss_of(given: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    return nn.functional.mse_loss(model(given), wanted)


def plain() -> None:
    optimizer.zero_grad()
    loss_of(*batch()).backward()
    clip_grad_norm_(parameters, 2.0)
    optimizer.step()


def by_layer() -> None:
    """Each layer has a limit of its own."""
    optimizer.zero_grad()
    loss_of(*batch()).backward()
    clip_grad_norm_(model[0].parameters(), 1.0)
    clip_grad_norm_(model[2].parameters(), 2.0)
    optimizer.step()


def value_and_norm() -> None:
    """Elements first, then the whole."""
    optimizer.zero_grad()
    loss_of(*batch()).backward()
    clip_grad_value_(parameters, 0.5)
    clip_grad_norm_(parameters, 1.0)
    optimizer.step()


def by_autograd() -> None:
    """The gradients come from autograd.grad, and no backward pass is called."""
    grads = torch.autograd.grad(loss_of(*batch()), parameters)
    for p, grad in zip(parameters, grads, strict=True):
        p.grad = grad
    clip_grad_norm_(parameters, 2.0)
    optimizer.step()


def two_tasks() -> None:
    """Of the gradients of two tasks what points against each other is taken out."""
    given, wanted = batch()
    tasks = []
    for task in range(2):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(given)[:, task], wanted[:, task]).backward()
        tasks.append(torch.cat([p.grad.flatten() for p in parameters]))
    first, other = tasks
    against = torch.dot(first, other).clamp(max=0.0)
    both = first - against * other / other.square().sum() + other - against * first / first.square().sum()
    for p, grad in zip(parameters, both.split([p.numel() for p in parameters]), strict=True):
        p.grad = grad.view_as(p).clone()
    clip_grad_norm_(parameters, 2.0)
    optimizer.step()


def private() -> None:
    """Each example's gradient is clipped by itself, and the step takes their noisy mean."""
    given, wanted = batch(4)
    sums = [torch.zeros_like(p) for p in parameters]
    for one in range(4):
        optimizer.zero_grad()
        loss_of(given[one : one + 1], wanted[one : one + 1]).backward()
        clip_grad_norm_(parameters, 1.0)
        for total, p in zip(sums, parameters, strict=True):
            total += p.grad
    for total, p in zip(sums, parameters, strict=True):
        p.grad = (total + 0.1 * torch.randn_like(total)) / 4
    optimizer.step()


def sharpness() -> None:
    """The gradient is taken a little uphill, and clipped there."""
    given, wanted = batch()
    optimizer.zero_grad()
    loss_of(given, wanted).backward()
    with torch.no_grad():
        length = torch.cat([p.grad.flatten() for p in parameters]).norm()
        moves = [0.05 * p.grad / length for p in parameters]
        for p, move in zip(parameters, moves, strict=True):
            p.add_(move)
    optimizer.zero_grad()
    loss_of(given, wanted).backward()
    with torch.no_grad():
        for p, move in zip(parameters, moves, strict=True):
            p.sub_(move)
    clip_grad_norm_(parameters, 2.0)
    optimizer.step()


def two_under_one_scale() -> None:
    """Two optimizers share a loss scale; the second model learns from what the first one makes."""
    given, wanted = batch()
    optimizer.zero_grad()
    second_optimizer.zero_grad()
    made = model(given)
    scaler.scale(nn.functional.mse_loss(made, wanted)).backward(retain_graph=True)
    scaler.scale(nn.functional.mse_loss(second(made.detach()), wanted[:, :1])).backward()
    scaler.unscale_(optimizer)
    scaler.unscale_(second_optimizer)
    clip_grad_norm_(parameters, 2.0)
    clip_grad_norm_(second.parameters(), 0.5)
    scaler.step(optimizer)
    scaler.step(second_optimizer)
    scaler.update()


def one_after_the_other() -> None:
    """Each optimizer's gradients are unscaled and clipped before its own step, after one backward pass for both."""
    given, wanted = batch()
    optimizer.zero_grad()
    second_optimizer.zero_grad()
    made = model(given)
    loss = nn.functional.mse_loss(made, wanted) + nn.functional.mse_loss(second(made), wanted[:, :1])
    scaler.scale(loss).backward()
    for one in (optimizer, second_optimizer):
        scaler.unscale_(one)
        clip_grad_norm_([p for group in one.param_groups for p in group["params"]], 1.0)
        scaler.step(one)
    scaler.update()


def skipped() -> None:
    """Steps whose norm is far too large are left out."""
    optimizer.zero_grad()
    loss_of(*batch()).backward()
    if clip_grad_norm_(parameters, 2.0) < 5.0:
        optimizer.step()


ways = {
    "healthy": plain, "by_layer": by_layer, "value_and_norm": value_and_norm, "by_autograd": by_autograd,
    "two_tasks": two_tasks, "private": private, "sharpness": sharpness, "two_under_one_scale": two_under_one_scale,
    "one_after_the_other": one_after_the_other, "skipped": skipped,
}  # fmt: skip
for _ in range(60):
    ways[variant]()
