"""Handwritten digits by a residual net without normalisation layers, over a range of learning rates.

scikit-learn's 1797 digits of 8 x 8 pixels, two thirds to train on. The net is of the kind of A. Brock, S. De,
S. L. Smith 2021: convolutions with standardised weights and a learned gain, scaled activations, residual branches that
start at zero, no batch normalisation. Large batches, SGD with Nesterov momentum, rates up to far too high. The metric
is the accuracy on the test images, averaged over the rates: what is left when nobody tunes the rate.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from functools import cache

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from gradclip.experiments.outcome import Metric, TrainingOutcome
from gradclip.experiments.tasks.descent import Descent, MakeOptimizer, descend
from gradclip.experiments.tasks.first_weights import drawn
from gradclip.experiments.tasks.task import Claim, Task
from gradclip.experiments.training.in_torch import alone
from gradclip.rules.rule import AnyRule

CHANNELS, BLOCKS, CLASSES, BATCH, EPOCHS, MOMENTUM = 16, 3, 10, 256, 12, 0.9
RATES = (0.2, 0.8, 1.6, 3.2)
RELU_GAIN = 1.7139588594436646
"""Keeps the variance of a normal variable through a ReLU: sqrt(2 / (1 - 1 / pi))."""
EPSILON = 1e-4
TRAINED_ON = 1200
SHUFFLE = 0
"""The seed of the split, the same in all runs."""


@cache
def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images [N, 1, 8, 8] of mean 0 and variance 1, and classes [N]: to train on, then to test on."""
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1)
    images = (images - images.mean()) / images.std()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(SHUFFLE))
    images, classes = images[order], torch.tensor(data.target)[order]
    return images[:TRAINED_ON], classes[:TRAINED_ON], images[TRAINED_ON:], classes[TRAINED_ON:]


class Convolution(nn.Conv2d):
    """A 3 x 3 convolution whose weights have mean 0 and variance 1 / fan-in in each output channel, times a gain."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, padding=1)
        self.gain = nn.Parameter(torch.ones(outputs, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(self.weight, dim=(1, 2, 3), keepdim=True)
        fan_in = self.weight[0].numel()
        weight = (self.weight - mean) * torch.rsqrt(variance * fan_in + EPSILON) * self.gain
        return nn.functional.conv2d(x, weight, self.bias, padding=1)


class Block(nn.Module):
    """A residual branch of two convolutions; a scalar that starts at 0 lets it in."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Convolution(CHANNELS, CHANNELS), Convolution(CHANNELS, CHANNELS)
        self.share = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        inner: Tensor = self.second(activation(self.first(activation(x))))
        return x + self.share * inner


def activation(x: Tensor) -> Tensor:
    """A ReLU that keeps the variance."""
    return RELU_GAIN * torch.relu(x)


def net() -> nn.Sequential:
    """Images [N, 1, 8, 8] to logits [N, 10]; the last layer is called `head`."""
    layers = nn.Sequential()
    layers.add_module("stem", Convolution(1, CHANNELS))
    for number in range(BLOCKS):
        layers.add_module(f"block{number}", Block())
    layers.add_module("pool", nn.Sequential(nn.AvgPool2d(2), nn.Flatten()))
    layers.add_module("head", nn.Linear(CHANNELS * 16, CLASSES))
    return layers


def nesterov(parameters: Iterable[nn.Parameter], rate: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, rate, MOMENTUM, nesterov=True)


def train(
    rule: AnyRule,
    seed: int,
    epochs: int = EPOCHS,
    rates: tuple[float, ...] = RATES,
    optimizer: MakeOptimizer = nesterov,
) -> TrainingOutcome:
    """Trains once at each rate; the metric is the mean accuracy, the curve is accuracy by rate."""
    found = [_trained(rule, seed, rate, epochs, optimizer) for rate in rates]
    accuracies = [accuracy for accuracy, _ in found]
    broken = [f"rate {rate:g}, {run.diverged}" for rate, (_, run) in zip(rates, found, strict=True) if run.diverged]
    return TrainingOutcome(
        statistics.fmean(accuracies),
        curve=tuple(zip(rates, accuracies, strict=True)),
        clipped=statistics.fmean(run.clipped for _, run in found),
        diverged="; ".join(broken) or None,
    )


def _trained(rule: AnyRule, seed: int, rate: float, epochs: int, optimizer: MakeOptimizer) -> tuple[float, Descent]:
    """The accuracy on the test images, and how the training went."""
    images, classes, test_images, test_classes = digits()
    model, random = drawn(net, seed), torch.Generator().manual_seed(seed)
    each = len(images) // BATCH
    order = torch.cat([torch.randperm(len(images), generator=random)[: each * BATCH] for _ in range(epochs)])
    batches = order.view(-1, BATCH)

    def loss(step: int) -> Tensor:
        chosen = batches[step - 1]
        return nn.functional.cross_entropy(model(images[chosen]), classes[chosen])

    run = descend(optimizer(model.parameters(), rate), rule, loss, len(batches), model)
    return recognised(model, test_images, test_classes).float().mean().item(), run


def recognised(model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    """Which of the images [N] a net that is done with training takes for what they are."""
    model.eval()
    with alone(), torch.no_grad():
        found: Tensor = model(images).argmax(1) == classes
    return found


TASK = Task(
    name="digits",
    about=(
        f"A residual net without normalisation layers ({BLOCKS} blocks of {CHANNELS} channels) on scikit-learn's "
        f"digits, SGD with Nesterov momentum {MOMENTUM:g}, batches of {BATCH}, {EPOCHS} epochs, at the rates "
        f"{', '.join(f'{rate:g}' for rate in RATES)}. The metric is the test accuracy averaged over the rates: what is "
        "left when nobody tunes the rate. Guessing has 0.1."
    ),
    claims=(
        Claim(
            "Adaptive gradient clipping trains nets without normalisation at large learning rates, where they fail "
            "without it.",
            "A. Brock, S. De, S. L. Smith, K. Simonyan 2021, arXiv:2102.06171 (AGC)",
            better="agc:0.01,exclude=head*",
            than="none",
        ),
        Claim(
            "The last layer is better left out of adaptive gradient clipping.",
            "A. Brock, S. De, S. L. Smith, K. Simonyan 2021, arXiv:2102.06171 (AGC)",
            better="agc:0.01,exclude=head*",
            than="agc:0.01",
        ),
    ),
    metric=Metric("test accuracy, mean over rates", best="highest", x="learning rate", y="test accuracy", log="x"),
    rules=(
        "none",
        "global:1",
        "global:0.1",
        "norm:0.1",
        "agc:0.01",
        "agc:0.01,exclude=head*",
        "agc:0.04,exclude=head*",
        "autoclip",
        "zclip",
    ),
    train=train,
)
