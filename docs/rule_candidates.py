"""The rules that the search has tried, by name, and the parts that only they have.

A part that proves itself moves into the package; what did not stays here, with what is in the record of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from gradclip import (
    EMA,
    Carry,
    ClipGradByGlobalNorm,
    Constant,
    History,
    Normalize,
    Quantile,
    Ratio,
    Rule,
    Sigma,
    Tensor,
    Window,
    min_of,
)
from gradclip.experiments.tasks.descent import NUMBERS
from gradclip.rules.arrays import Array
from gradclip.rules.rule import AnyRule
from gradclip.rules.threshold import Observed, State, Threshold


@dataclass(frozen=True)
class Times(Threshold):
    """A multiple of another threshold."""

    factor: float
    threshold: Threshold
    adapts: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "reads_given", self.threshold.reads_given)
        object.__setattr__(self, "keeps_rows", self.threshold.keeps_rows)

    def at(self, observed: Observed, state: State) -> tuple[Array, State]:
        limit, after = self.threshold.at(observed, state)
        return self.factor * limit, after

    def __str__(self) -> str:
        return f"{self.factor:g} times {self.threshold}"


@dataclass(frozen=True)
class OfLogarithms(Threshold):
    """A threshold of the logarithms of the norms, and the norm that has it."""

    threshold: History
    keeps_rows: ClassVar[bool] = True
    adapts: ClassVar[bool] = True

    def at(self, observed: Observed, state: State) -> tuple[Array, State]:
        norm = np.where(observed.learns, observed.norm, 1.0)
        limit, after = self.threshold.at(observed._replace(norm=np.log(norm)), state)
        return np.exp(limit), after

    def __str__(self) -> str:
        return f"the norm whose logarithm is {self.threshold}"


@dataclass(frozen=True)
class Polyak(Threshold):
    """The norm whose step of plain descent takes the share `share` of the loss away: `share loss / (reach norm)`."""

    share: float
    adapts: ClassVar[bool] = True
    reads_given: ClassVar[frozenset[str]] = frozenset({"loss", "reach"})

    def at(self, observed: Observed, state: State) -> tuple[Array, State]:
        loss, reach = observed.given["loss"], observed.given["reach"]
        norm = np.where(observed.learns, observed.norm, 1.0)
        return np.where(loss > 0.0, self.share * loss / (reach * norm), math.inf), state

    def __str__(self) -> str:
        return f"the norm whose step takes {self.share:g} of the loss"


@dataclass(frozen=True)
class Aligned(Threshold):
    """A share of the norm that falls where a gradient points against those before, and rises where it points with them:
    `log share <- min(0, log share + speed (cosine + lean))`."""

    speed: float
    lean: float = 0.0
    adapts: ClassVar[bool] = True
    reads_given: ClassVar[frozenset[str]] = frozenset({"cosine"})

    def at(self, observed: Observed, state: State) -> tuple[Array, State]:
        norm = np.where(observed.learns, observed.norm, 0.0)
        before = state["fallen"] if state else 0.0 * norm
        cosine = observed.given["cosine"]
        after = np.maximum(before - self.speed * (cosine + self.lean), 0.0)
        fallen = np.where(observed.learns, after, before)
        return np.where(fallen > 0.0, norm * np.exp(-fallen), math.inf), {"fallen": fallen}

    def __str__(self) -> str:
        return (
            f"a share of the norm that follows the cosine with the momentum (speed {self.speed:g}, lean {self.lean:g})"
        )


def _momenta(optimizer: torch.optim.Optimizer) -> Iterator[tuple[torch.Tensor, Any]]:
    """Each gradient, and what the optimizer has of those before."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None:
                state = optimizer.state.get(parameter, {})
                yield parameter.grad, state.get("momentum_buffer", state.get("exp_avg"))


def cosine(optimizer: torch.optim.Optimizer, loss: float) -> float:
    """Of the gradient with the mean of those before it, which the optimizer has as its momentum."""
    pairs = [(gradient.flatten(), mean.flatten()) for gradient, mean in _momenta(optimizer) if mean is not None]
    if not pairs:
        return 0.0
    gradient, mean = (torch.cat(column).double() for column in zip(*pairs, strict=True))
    size = float(gradient.norm() * mean.norm())
    return float(gradient @ mean) / size if 0.0 < size < math.inf else 0.0


def reach(optimizer: torch.optim.Optimizer, loss: float) -> float:
    """How far a lasting gradient of norm 1 moves the parameters in the end: the rate over what momentum forgets."""
    group = optimizer.param_groups[0]
    return float(group["lr"]) / (1.0 - float(group.get("momentum", 0.0)))


def adaptive(optimizer: torch.optim.Optimizer, loss: float) -> float:
    """1 where the optimizer divides by the root of a second moment, which makes it blind to the size of a gradient."""
    return float(any("exp_avg_sq" in state for state in optimizer.state.values()) or "betas" in optimizer.defaults)


@dataclass(frozen=True)
class Step(Threshold):
    """The norm whose step of SGD, when it lasts, is `length` long: `length (1 - momentum) / rate`."""

    length: float
    adapts: ClassVar[bool] = True
    reads_given: ClassVar[frozenset[str]] = frozenset({"reach"})

    def at(self, observed: Observed, state: State) -> tuple[Array, State]:
        return self.length / observed.given["reach"] + 0.0 * np.where(observed.learns, observed.norm, 0.0), state

    def __str__(self) -> str:
        return f"the norm of a step of {self.length:g}"


@dataclass(frozen=True)
class Distance(Threshold):
    """The norm whose step, when it lasts, is `k r` long, with r the furthest that the parameters have been from where
    they began, or the share `start` of their norm there; with `root`, `k r / sqrt(t)`: the length of a step that needs
    to know no scale (M. Ivgi, O. Hinder, Y. Carmon 2023, arXiv:2302.12022, DoG, with every gradient of norm 1)."""

    k: float
    root: bool = False
    start: float = 0.01
    adapts: ClassVar[bool] = True
    reads_given: ClassVar[frozenset[str]] = frozenset({"distance", "reach", "size"})

    def at(self, observed: Observed, state: State) -> tuple[Array, State]:
        zero = 0.0 * np.where(observed.learns, observed.norm, 0.0)
        before = state["furthest"] if state else zero + self.start * observed.given["size"]
        furthest = np.maximum(before, observed.given["distance"] + zero)
        length = self.k * furthest / (math.sqrt(observed.step + 1.0) if self.root else 1.0)
        return np.where(furthest > 0.0, length / observed.given["reach"], math.inf), {"furthest": furthest}

    def __str__(self) -> str:
        over = " over the root of the step" * self.root
        return f"the norm of a step of {self.k:g} times the furthest distance{over} (from {self.start:g})"


def distance(optimizer: torch.optim.Optimizer, loss: float) -> float:
    """Of the parameters from where they were at the first call."""
    places = [parameter.detach() for group in optimizer.param_groups for parameter in group["params"]]
    start = optimizer.__dict__.setdefault("began_at", [place.clone() for place in places])
    return math.sqrt(sum(float((place - at).double().square().sum()) for place, at in zip(places, start, strict=True)))


def size(optimizer: torch.optim.Optimizer, loss: float) -> float:
    """The norm of the parameters."""
    places = [parameter.detach() for group in optimizer.param_groups for parameter in group["params"]]
    return math.sqrt(sum(float(place.double().square().sum()) for place in places))


@dataclass(frozen=True)
class ByOptimizer(Threshold):
    """One threshold under an optimizer that adapts to the size of gradients, as Adam does, and another one else."""

    adam: Threshold
    sgd: Threshold
    adapts: ClassVar[bool] = True

    def __post_init__(self) -> None:
        reads = self.adam.reads_given | self.sgd.reads_given | {"adaptive"}
        object.__setattr__(self, "reads_given", reads)
        object.__setattr__(self, "keeps_rows", True)

    def at(self, observed: Observed, state: State) -> tuple[Array, State]:
        chosen = self.adam if observed.given["adaptive"] else self.sgd
        return chosen.at(observed, state)

    def __str__(self) -> str:
        return f"under Adam {self.adam}, else {self.sgd}"


class Spamp:
    """A hook before a step that shapes gradients as H. You, B. Liu 2025 do (arXiv:2510.01578, SPAMP).

    For each tensor `tau <- beta tau + (1 - beta) |g|`, `g <- sign(g) |g|^alpha` for each element, and then `g` is cut
    to the norm tau. `alpha` falls from 1 to 0.7 with `r = |g| / tau`, as `0.7 + 0.3 / max(r, 1)` here; how is not
    published.
    """

    def __init__(self, beta: float = 0.99) -> None:
        self.beta = beta
        self.taus: dict[int, float] = {}

    @torch.no_grad()
    def __call__(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        for number, (gradient, _) in enumerate(_momenta(optimizer)):
            norm = float(gradient.norm())
            if not 0.0 < norm < math.inf:
                continue
            tau = self.taus[number] = self.beta * self.taus.get(number, norm) + (1.0 - self.beta) * norm
            gradient.copy_(gradient.sign() * gradient.abs() ** (0.7 + 0.3 / max(norm / tau, 1.0)))
            gradient.mul_(min(1.0, tau / float(gradient.norm())))


NUMBERS.update(cosine=cosine, reach=reach, adaptive=adaptive, distance=distance, size=size)


def level(q: float, k: float, length: int = 1000) -> Threshold:
    """A multiple of a quantile of the norms so far, this one included."""
    return Times(k, History(Window(length), Quantile(q), current=True))


SHAPED = "spamp"
"""The candidate that is a hook and no rule."""
SLOW = ((1.05, 0.98), (2.0, 0.99), (2.0, 0.999), (1.2, 0.99))
"""A multiple, and the decay of the mean of clipped norms."""
LEVELS = ((0.1, 0.1), (0.1, 0.5), (0.1, 1.0), (0.1, 2.0), (0.1, 4.0), (0.5, 1.0), (0.5, 2.0), (0.5, 4.0), (0.5, 8.0))
"""A quantile, and a multiple of it."""

CANDIDATES: dict[str, AnyRule] = {
    **{f"{k:g} x quantile {q:g}": Rule(threshold=level(q, k)) for q, k in LEVELS},
    **{f"{k:g} x median of each tensor": Rule(Tensor(), threshold=level(0.5, k, 100)) for k in (1.0, 2.0)},
    **{
        f"{k:g} x EMA {decay:g}, clipped": Rule(threshold=History(EMA(decay), Ratio(k), "clipped")) for k, decay in SLOW
    },
    "normalised to the median": Rule(threshold=level(0.5, 1.0), response=Normalize()),
    "4 deviations of logarithms": Rule(threshold=OfLogarithms(History(Window(100), Sigma(4.0), warmup=20))),
    **{f"step {length:g}": Rule(threshold=Step(length)) for length in (0.3, 1.0, 2.0, 3.0)},
    **{f"distance {k:g}": Rule(threshold=Distance(k)) for k in (0.03, 0.1, 0.3, 1.0)},
    **{f"distance {k:g} over root": Rule(threshold=Distance(k, root=True)) for k in (0.3, 0.5, 1.0, 2.0, 3.0)},
    "distance 1 over root, from 0.001": Rule(threshold=Distance(1.0, root=True, start=0.001)),
    "distance 1 over root, from 0.1": Rule(threshold=Distance(1.0, root=True, start=0.1)),
    "adam 0.1, sgd step 1": Rule(threshold=ByOptimizer(Constant(0.1), Step(1.0))),
    SHAPED: ClipGradByGlobalNorm(None),
    "carried, 1 x median": Carry(Rule(threshold=level(0.5, 1.0))),
    **{f"polyak {share:g}": Rule(threshold=Polyak(share)) for share in (1.0, 0.3, 0.1)},
    **{
        f"aligned {speed:g} {lean:+g}": Rule(threshold=Aligned(speed, lean))
        for speed in (0.03, 0.1, 0.3)
        for lean in (0.0, 0.1)
    },
    **{
        f"aligned {speed:g} {lean:+g}, {k:g} x quantile {q:g}": Rule(
            threshold=min_of(Aligned(speed, lean), level(q, k))
        )
        for speed in (0.03, 0.1, 0.3)
        for lean in (0.0, 0.1)
        for q, k in ((0.1, 1.0), (0.1, 2.0), (0.5, 1.0), (0.5, 2.0), (0.5, 8.0))
    },
    **{
        f"adam 1 x quantile 0.1, sgd aligned {speed:g} {lean:+g}, {k:g} x quantile {q:g}": Rule(
            threshold=ByOptimizer(level(0.1, 1.0), min_of(Aligned(speed, lean), level(q, k)))
        )
        for speed in (0.03, 0.1, 0.3)
        for lean in (0.0, 0.1)
        for q, k in ((0.1, 2.0), (0.5, 2.0), (0.5, 8.0))
    },
}
