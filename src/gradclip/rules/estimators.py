"""Estimators: what is remembered of the norms of earlier steps.

A memory is a dict of arrays [G], one place for each segment ([n, G] for a window), and begins as zeros: `count` says
how many norms were learnt, so that zeros that were never learnt count for nothing. An estimator never changes a memory,
it makes the next one. What it can tell of the norms (`mean`, `spread`, `rms`, `quantile`) stands in `provides`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from gradclip.errors import shown
from gradclip.rules.arguments import checked_factor, checked_share, checked_word, keep
from gradclip.rules.arrays import Array, ArrayFunctions
from gradclip.rules.threshold import State

LONGEST = 1_000_000
"""The longest window: each of its norms is kept for each segment."""
FASTEST = 100.0
"""The highest rate of a tracker, which moves by its exponential."""


@dataclass(frozen=True)
class Estimator:
    """Base of the estimators. `rows` is the length of the arrays [n, G], 0 where all are [G].

    >>> sorted(Window(128).provides), Window(128).arrays
    (['mean', 'quantile', 'spread'], {'count': 0, 'norms': 128, 'place': 0})
    """

    provides: ClassVar[frozenset[str]] = frozenset()

    @property
    def names(self) -> tuple[str, ...]:
        """The arrays of its memory beside `count`."""
        return ("mean",)

    @property
    def rows(self) -> int:
        return 0

    @property
    def arrays(self) -> dict[str, int]:
        """The arrays of its memory by name, each with the n of [n, G], 0 where it is [G]."""
        return dict.fromkeys(("count", *self.names), 0)

    @property
    def single_norm(self) -> bool:
        """Whether its mean is no mean of several norms."""
        return False

    def empty(self, zero: Array, xp: ArrayFunctions) -> State:
        """The memory that nothing was learnt in; `zero` is [G]."""
        return {name: xp.column(n, zero) * 0.0 + zero if n else zero for name, n in self.arrays.items()}

    def learnt(self, memory: State, norm: Array, warmup: int, xp: ArrayFunctions) -> State:
        """The memory after `norm` [G]; `warmup` norms make the beginning."""
        raise NotImplementedError

    def mean(self, memory: State, xp: ArrayFunctions) -> Array:
        """The usual norm [G]."""
        return memory["mean"]

    def spread(self, memory: State, xp: ArrayFunctions) -> Array:
        """The standard deviation of the norms [G]."""
        return memory["spread"]

    def rms(self, memory: State, xp: ArrayFunctions) -> Array:
        """The root mean square of the norms [G]."""
        return memory["rms"]

    def quantile(self, memory: State, q: float, xp: ArrayFunctions) -> Array:
        """The norm [G] below which the share `q` of the norms lies."""
        raise NotImplementedError


@dataclass(frozen=True)
class EMA(Estimator):
    """The exponential moving average: `mean <- decay mean + (1 - decay) norm`. With decay 0 it is the last norm.

    `start` says how it begins: "average" (the plain mean of the norms of the warm-up, so the first norm where the
    warm-up is 1), "least" (their smallest), or "debiased" (Adam's: each norm of the past has its true weight).

    >>> Rule(threshold=History(EMA(0.97), Ratio(2.0)))
    all tensors together: an L2 norm above 2 times the mean of an EMA of 0.97 is rescaled to it
    """

    decay: float
    start: Literal["average", "least", "debiased"] = "average"

    provides: ClassVar[frozenset[str]] = frozenset({"mean"})

    def __post_init__(self) -> None:
        keep(self, "decay", checked_share(self.decay, "the decay of an EMA", "0.97"))
        checked_word(self.start, "the start of an EMA", ("average", "least", "debiased"))

    @property
    def names(self) -> tuple[str, ...]:
        return ("mean", "weight") if self.start == "debiased" else ("mean",)

    @property
    def single_norm(self) -> bool:
        return self.decay == 0

    def learnt(self, memory: State, norm: Array, warmup: int, xp: ArrayFunctions) -> State:
        count, mean = memory["count"], memory["mean"]
        if self.start == "debiased":
            weight = self.decay * memory["weight"] + (1.0 - self.decay)
            after = moved(mean, norm, (1.0 - self.decay) / weight, xp)
            return {"count": count + 1.0, "mean": after, "weight": weight}
        after = moved(mean, norm, rate_of(count, self.decay, warmup, xp), xp)
        if self.start == "least":
            least = xp.where(xp.either(count < 1.0, norm < mean), norm, mean)
            after = xp.where(count < warmup, least, after)
        return {"count": count + 1.0, "mean": after}

    def __str__(self) -> str:
        return "the last norm" if self.decay == 0 else f"an EMA of {self.decay:g}{_start(self.start)}"


@dataclass(frozen=True)
class EMASpread(Estimator):
    """Exponential moving mean and standard deviation: with `d = norm - mean` and `r = 1 - decay`,
    `mean <- mean + r d` and `variance <- (1 - r) (variance + r d^2)` (T. Finch 2009); in the warm-up the plain ones.

    >>> print(History(EMASpread(0.97), Sigma(3.0), warmup=25))
    the mean + 3 standard deviations of an EMA of 0.97 (after 25)
    """

    decay: float

    provides: ClassVar[frozenset[str]] = frozenset({"mean", "spread"})

    def __post_init__(self) -> None:
        keep(self, "decay", checked_share(self.decay, "the decay of an EMA", "0.97"))

    @property
    def names(self) -> tuple[str, ...]:
        return ("mean", "spread")

    def learnt(self, memory: State, norm: Array, warmup: int, xp: ArrayFunctions) -> State:
        count, mean, spread = memory["count"], memory["mean"], memory["spread"]
        rate = rate_of(count, self.decay, warmup, xp)
        off = norm - mean
        # the root, and in units of the larger part: no square leaves the range of the type that keeps the memory
        spread = xp.sqrt(1.0 - rate) * hypotenuse(spread, xp.sqrt(rate) * xp.maximum(off, -off), xp)
        return {"count": count + 1.0, "mean": mean + rate * off, "spread": spread}

    def __str__(self) -> str:
        return f"an EMA of {self.decay:g}"


@dataclass(frozen=True)
class Moments(Estimator):
    """Debiased moving averages of the norm, with `decay`, and of its square, with `square_decay`.

    >>> print(History(Moments(0.7, 0.9), MeanOverRMS()))
    the mean over the root mean square of EMAs of 0.7 of the norm and of 0.9 of its square
    """

    decay: float
    square_decay: float

    provides: ClassVar[frozenset[str]] = frozenset({"mean", "rms"})

    def __post_init__(self) -> None:
        keep(self, "decay", checked_share(self.decay, "the decay of the norm", "0.7"))
        keep(self, "square_decay", checked_share(self.square_decay, "the decay of its square", "0.9"))

    @property
    def names(self) -> tuple[str, ...]:
        return ("mean", "weight", "rms", "square_weight")

    def learnt(self, memory: State, norm: Array, warmup: int, xp: ArrayFunctions) -> State:
        weight = self.decay * memory["weight"] + (1.0 - self.decay)
        square_weight = self.square_decay * memory["square_weight"] + (1.0 - self.square_decay)
        rate, square_rate = (1.0 - self.decay) / weight, (1.0 - self.square_decay) / square_weight
        # rounding may bring a rate to just above 1
        left = xp.sqrt(xp.maximum(1.0 - square_rate, 0.0))
        return {
            "count": memory["count"] + 1.0,
            "mean": moved(memory["mean"], norm, rate, xp),
            "rms": hypotenuse(left * memory["rms"], xp.sqrt(square_rate) * norm, xp),
            "weight": weight,
            "square_weight": square_weight,
        }

    def __str__(self) -> str:
        return f"EMAs of {self.decay:g} of the norm and of {self.square_decay:g} of its square"


@dataclass(frozen=True)
class Window(Estimator):
    """The last `length` norms, in a ring [length, G]; spread is unbiased, a quantile is interpolated linearly.

    >>> Rule(threshold=History(Window(100), Quantile(0.9)))
    all tensors together: an L2 norm above the 90 % quantile of the last 100 norms is rescaled to it
    """

    length: int

    provides: ClassVar[frozenset[str]] = frozenset({"mean", "spread", "quantile"})

    def __post_init__(self) -> None:
        if type(self.length) is not int or not 1 <= self.length <= LONGEST:
            raise ValueError(f"a Window holds from 1 to {LONGEST:,} norms, got {shown(self.length)}: write Window(128)")

    @property
    def names(self) -> tuple[str, ...]:
        return ("norms", "place")

    @property
    def rows(self) -> int:
        return self.length

    @property
    def arrays(self) -> dict[str, int]:
        return {"count": 0, "norms": self.length, "place": 0}

    def learnt(self, memory: State, norm: Array, warmup: int, xp: ArrayFunctions) -> State:
        place = memory["place"]
        norms = xp.where(xp.column(self.length, norm) == place, norm, memory["norms"])
        after = xp.where(place + 1.0 >= self.length, 0.0, place + 1.0)
        return {"count": memory["count"] + 1.0, "norms": norms, "place": after}

    def mean(self, memory: State, xp: ArrayFunctions) -> Array:
        return xp.sum(memory["norms"] / self._held(memory, xp))  # divided first: their sum may leave the range

    def spread(self, memory: State, xp: ArrayFunctions) -> Array:
        held, norms = self._held(memory, xp), memory["norms"]
        off = xp.where(xp.column(self.length, held) < held, norms - self.mean(memory, xp), 0.0)
        unit = xp.sum(xp.maximum(off, -off))
        parts = off / xp.where(unit > 0.0, unit, 1.0)
        return unit * xp.sqrt(xp.sum(parts * parts) / xp.maximum(held - 1.0, 1.0))

    def quantile(self, memory: State, q: float, xp: ArrayFunctions) -> Array:
        held, number = self._held(memory, xp), xp.column(self.length, memory["count"])
        ordered = xp.sort(xp.where(number < held, memory["norms"], math.inf))
        off = number - q * (held - 1.0)
        weight = xp.maximum(1.0 - xp.maximum(off, -off), 0.0)
        return xp.sum(xp.where(weight > 0.0, ordered, 0.0) * weight)

    def _held(self, memory: State, xp: ArrayFunctions) -> Array:
        """How many norms the ring holds, at least 1."""
        count = xp.maximum(memory["count"], 1.0)
        return xp.where(count < self.length, count, float(self.length))

    def __str__(self) -> str:
        return f"the last {self.length} norms"


@dataclass(frozen=True)
class QuantileTracker(Estimator):
    """One number that walks to the quantile `q` of the norms: `C <- C exp(-rate (b - q))`, with b = 1 where norm <= C
    and 0 elsewhere. It begins as the first norm. G. Andrew et al. 2021, arXiv:1905.03871.

    >>> Rule(threshold=History(QuantileTracker(0.9, rate=0.05), Ratio())) == QuantileClip(0.9, rate=0.05)
    True
    """

    q: float = 0.5
    rate: float = 0.2

    provides: ClassVar[frozenset[str]] = frozenset({"mean"})

    def __post_init__(self) -> None:
        keep(self, "q", checked_share(self.q, "the quantile", "0.5"))
        keep(self, "rate", checked_factor(self.rate, "the rate of a QuantileTracker", "0.2"))
        if self.rate > FASTEST:
            raise ValueError(f"the rate of a QuantileTracker is at most {FASTEST:g}, got {shown(self.rate)}: write 0.2")

    @property
    def single_norm(self) -> bool:
        return True

    def learnt(self, memory: State, norm: Array, warmup: int, xp: ArrayFunctions) -> State:
        count, mean = memory["count"], memory["mean"]
        up, down = math.exp(self.rate * self.q), math.exp(-self.rate * (1.0 - self.q))
        moved = xp.where(norm > mean, mean * up, mean * down)
        return {"count": count + 1.0, "mean": xp.where(count > 0, moved, norm)}

    def __str__(self) -> str:
        return f"the tracked quantile {self.q:g} (rate {self.rate:g})"


def rate_of(count: Array, decay: float, warmup: int, xp: ArrayFunctions) -> Array:
    """The weight of the next norm: that of a plain mean in the warm-up, `1 - decay` after it."""
    return xp.where(count < warmup, 1.0 / (count + 1.0), 1.0 - decay)


def moved(mean: Array, norm: Array, rate: Array, xp: ArrayFunctions) -> Array:
    """`mean` moved towards `norm`: not at all where they are equal, and to it, bit for bit, where the rate is 1."""
    return xp.where(rate < 1.0, mean + rate * (norm - mean), norm)


def hypotenuse(a: Array, b: Array, xp: ArrayFunctions) -> Array:
    """`sqrt(a^2 + b^2)` of numbers from 0, in units of the larger."""
    unit = xp.maximum(a, b)
    safe = xp.where(unit > 0.0, unit, 1.0)
    return unit * xp.sqrt((a / safe) * (a / safe) + (b / safe) * (b / safe))


def _start(start: str) -> str:
    return {"average": "", "least": " from the smallest norm", "debiased": ", debiased"}[start]
