"""A residual net with batch normalisation on handwritten digits, trained as residual nets are.

Basic blocks of K. He, X. Zhang, S. Ren, J. Sun 2016, arXiv:1512.03385, in the form of its section 4.2: three stages of
three blocks, of 16, 32 and 64 channels, SGD at 0.1 with momentum 0.9 and a decay of 1e-4, images moved at random. The
rate falls along a cosine. The paper clips nothing; the published threshold is that of H. Liu, K. Simonyan, Y. Yang
2019, arXiv:1806.09055 (DARTS), who train convolutional nets with the same optimizer.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from gradclip.experiments.outcome import Metric, TrainingOutcome
from gradclip.experiments.tasks.descent import MakeOptimizer, descend, set_rate, thinned
from gradclip.experiments.tasks.digits import CLASSES, digits, recognised
from gradclip.experiments.tasks.first_weights import drawn
from gradclip.experiments.tasks.task import Task
from gradclip.rules.rule import AnyRule

CHANNELS, DEPTH, BATCH, RATE, STEPS = (16, 32, 64), 3, 128, 0.1, 500
"""Channels and blocks of each stage."""
MOVED = 1
"""An image is moved by up to so many pixels to each side."""


class BasicBlock(nn.Module):
    """Two convolutions beside the stream `[N, inputs, H, W] -> [N, outputs, H / stride, W / stride]`."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first, self.second = _normalised(inputs, outputs, stride), _normalised(outputs, outputs, 1)
        fits = (inputs, stride) == (outputs, 1)
        self.stream = nn.Identity() if fits else _normalised(inputs, outputs, stride, size=1)

    def forward(self, x: Tensor) -> Tensor:
        inner: Tensor = self.second(torch.relu(self.first(x)))
        return torch.relu(self.stream(x) + inner)


def _normalised(inputs: int, outputs: int, stride: int, size: int = 3) -> nn.Sequential:
    """A convolution, and batch normalisation."""
    convolution = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs))


def net() -> nn.Sequential:
    """Images [N, 1, 8, 8] to logits [N, 10]."""
    inputs = CHANNELS[0]
    layers: list[nn.Module] = [_normalised(1, inputs, 1), nn.ReLU()]
    for outputs in CHANNELS:
        for block in range(DEPTH):
            layers.append(BasicBlock(inputs, outputs, stride=2 if outputs != inputs and block == 0 else 1))
            inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, CLASSES))


def moved(images: Tensor, random: torch.Generator) -> Tensor:
    """Each of the images [N, 1, H, W] by a number of pixels of its own; what comes in has the least value."""
    down, right = torch.randint(2 * MOVED + 1, (2, len(images)), generator=random)
    padded = nn.functional.pad(images, (MOVED,) * 4, value=images.min().item())[:, 0]
    height, width = images.shape[2:]
    rows = (down[:, None] + torch.arange(height))[:, :, None]
    columns = (right[:, None] + torch.arange(width))[:, None, :]
    return padded[torch.arange(len(images))[:, None, None], rows, columns][:, None]


def sgd(parameters: Iterable[nn.Parameter], rate: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, rate, momentum=0.9, weight_decay=1e-4)


def train(
    rule: AnyRule, seed: int, steps: int = STEPS, rate: float = RATE, optimizer: MakeOptimizer = sgd
) -> TrainingOutcome:
    """Trains on batches drawn at random; the metric is the share of the test images that are taken for others."""
    images, classes, tests, answers = digits()
    model, random = drawn(net, seed), torch.Generator().manual_seed(seed)
    made = optimizer(model.parameters(), rate)

    def loss(step: int) -> Tensor:
        set_rate(made, rate * (1 + math.cos(math.pi * (step - 1) / steps)) / 2)
        chosen = torch.randint(len(images), (BATCH,), generator=random)
        return nn.functional.cross_entropy(model(moved(images[chosen], random)), classes[chosen])

    run = descend(made, rule, loss, steps, model)
    error = (~recognised(model, tests, answers)).float().mean().item()
    curve = thinned(run.losses, of=steps)
    return TrainingOutcome(error, curve=curve, clipped=run.clipped, diverged=run.diverged)


TASK = Task(
    name="resnet",
    about=(
        f"A residual net of {2 * DEPTH * len(CHANNELS) + 2} layers with batch normalisation, 272 thousand parameters, "
        f"on scikit-learn's digits, moved by up to a pixel. SGD {RATE:g} with momentum 0.9 and decay 1e-4, a cosine, "
        f"{STEPS} steps on batches of {BATCH}. The published threshold is 5 (H. Liu, K. Simonyan, Y. Yang 2019, "
        "arXiv:1806.09055). The metric is the error on the test images."
    ),
    claims=(),
    metric=Metric("test error", y="cross entropy of the batch", log="y", margin=0.005),
    rules=("none", "global:5", "global:1", "global:0.1", "steplength:1"),
    train=train,
)
