"""Levels: how a threshold follows from what is remembered of the norms."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from gradclip.rules.arguments import checked_factor, checked_share, keep, real_number
from gradclip.rules.arrays import Array, ArrayFunctions
from gradclip.rules.estimators import Estimator
from gradclip.rules.threshold import State


@dataclass(frozen=True)
class Level:
    """Base of the levels; `needs` names what the estimator must be able to tell.

    >>> sorted(Sigma(3.0).needs), EMASpread(0.97).provides >= Sigma(3.0).needs
    (['mean', 'spread'], True)
    """

    needs: ClassVar[frozenset[str]] = frozenset()

    def limit(self, estimator: Estimator, memory: State, norm: Array, xp: ArrayFunctions) -> Array:
        """The threshold [G], in the unit of the norms; `norm` is that of this step."""
        raise NotImplementedError

    def words(self, estimator: Estimator) -> str:
        """What it is of this estimator, as a part of a sentence."""
        return f"{self} of {estimator}"


@dataclass(frozen=True)
class Ratio(Level):
    """A multiple of the usual norm: `k mean`.

    >>> print(History(EMA(0.98), Ratio(1.05)))
    1.05 times the mean of an EMA of 0.98
    """

    k: float = 1.0

    needs: ClassVar[frozenset[str]] = frozenset({"mean"})

    def __post_init__(self) -> None:
        keep(self, "k", checked_factor(self.k, "the factor of a Ratio", "1.05"))

    def limit(self, estimator: Estimator, memory: State, norm: Array, xp: ArrayFunctions) -> Array:
        return self.k * estimator.mean(memory, xp)

    def words(self, estimator: Estimator) -> str:
        mean = str(estimator) if estimator.single_norm else f"the mean of {estimator}"
        return mean if self.k == 1 else f"{self.k:g} times {mean}"


@dataclass(frozen=True)
class Sigma(Level):
    """So many standard deviations above the usual norm: `mean + z spread`.

    >>> print(History(Window(128), Sigma(6.0)))
    the mean + 6 standard deviations of the last 128 norms
    """

    z: float

    needs: ClassVar[frozenset[str]] = frozenset({"mean", "spread"})

    def __post_init__(self) -> None:
        keep(self, "z", checked_factor(self.z, "the number of standard deviations", "6.0"))

    def limit(self, estimator: Estimator, memory: State, norm: Array, xp: ArrayFunctions) -> Array:
        return estimator.mean(memory, xp) + self.z * estimator.spread(memory, xp)

    def __str__(self) -> str:
        return f"the mean + {self.z:g} standard deviations"


@dataclass(frozen=True)
class ZReciprocal(Level):
    """As `Sigma`, but the further a norm lies above it, the lower the threshold, down to the mean.

    With `s = (norm - mean) / spread`: no threshold for `s <= z`, else `mean + z spread (z / s)`.
    A. Kumar et al. 2025, arXiv:2504.02507.

    >>> print(History(EMASpread(0.97), ZReciprocal(2.5)))
    the mean + 2.5 standard deviations, falling to the mean, of an EMA of 0.97
    """

    z: float

    needs: ClassVar[frozenset[str]] = frozenset({"mean", "spread"})

    def __post_init__(self) -> None:
        keep(self, "z", checked_factor(self.z, "the number of standard deviations", "2.5"))

    def limit(self, estimator: Estimator, memory: State, norm: Array, xp: ArrayFunctions) -> Array:
        mean, edge = estimator.mean(memory, xp), self.z * estimator.spread(memory, xp)
        spike = norm - mean > edge
        return xp.where(spike, mean + edge * (edge / xp.where(spike, norm - mean, 1.0)), math.inf)

    def __str__(self) -> str:
        return f"the mean + {self.z:g} standard deviations, falling to the mean,"


@dataclass(frozen=True)
class Quantile(Level):
    """The norm below which the share `q` of the remembered norms lies.

    >>> print(History(Window(100), Quantile(0.1)))
    the 10 % quantile of the last 100 norms
    """

    q: float

    needs: ClassVar[frozenset[str]] = frozenset({"quantile"})

    def __post_init__(self) -> None:
        largest = real_number(self.q) == 1.0
        keep(self, "q", 1.0 if largest else checked_share(self.q, "a quantile", "0.1 (or 1.0, the largest norm)"))

    def limit(self, estimator: Estimator, memory: State, norm: Array, xp: ArrayFunctions) -> Array:
        return estimator.quantile(memory, self.q, xp)

    def __str__(self) -> str:
        return f"the {100 * self.q:g} % quantile"


@dataclass(frozen=True)
class MeanOverRMS(Level):
    """`mean / rms` of the norms, a number up to about 1: the norm that Stable-SPAM gives to every tensor.

    >>> print(History(Moments(0.7, 0.9), MeanOverRMS()))
    the mean over the root mean square of EMAs of 0.7 of the norm and of 0.9 of its square
    """

    needs: ClassVar[frozenset[str]] = frozenset({"mean", "rms"})

    def limit(self, estimator: Estimator, memory: State, norm: Array, xp: ArrayFunctions) -> Array:
        rms = estimator.rms(memory, xp)
        return estimator.mean(memory, xp) / xp.where(rms > 0.0, rms, 1.0)

    def __str__(self) -> str:
        return "the mean over the root mean square"
