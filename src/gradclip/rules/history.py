"""Thresholds that follow the norms of earlier steps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from gradclip.errors import shown
from gradclip.rules.arguments import checked_flag, checked_word, is_part, is_whole, keep
from gradclip.rules.arrays import Array, ArrayFunctions
from gradclip.rules.estimators import Estimator
from gradclip.rules.levels import Level
from gradclip.rules.threshold import Observed, State, Threshold

FEEDS = {
    "raw": "",
    "limit": "learning the limit for an outlier",
    "clipped": "learning clipped norms",
    "accepted": "learning no outlier",
}
"""What is learnt of a step, and how a sentence says it."""


@dataclass(frozen=True)
class History(Threshold):
    """A `level` of what an `estimator` remembers of the norms of earlier steps, in the unit of the gradient.

    `feed` says what is learnt from a norm above the threshold: "raw" (the norm), "limit" (the threshold), "clipped"
    (the smaller of it and of what stands beside it in `min_of`), or "accepted" (nothing). What is not raw resists a
    burst of bad steps and is locked out by a lasting change of level; `readmit` is its way out: from so many norms
    above the threshold in a row on, the raw norm is learnt.
    Until `warmup` norms were learnt there is no threshold (infinity). `current` lets the norm of this step count
    before the threshold is taken. A non-finite or zero norm is never learnt.

    >>> History(Window(128), Sigma(6.0), warmup=64)
    History(estimator=Window(length=128), level=Sigma(z=6.0), feed='raw', warmup=64, readmit=None, current=False)
    """

    estimator: Estimator
    level: Level
    feed: Literal["raw", "limit", "clipped", "accepted"] = "raw"
    warmup: int = 1
    readmit: int | None = None
    current: bool = False

    adapts: ClassVar[bool] = True
    reads_step: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check_parts(self.estimator, self.level)
        checked_word(self.feed, "feed", FEEDS)
        keep(self, "current", checked_flag(self.current, "current"))
        if not is_whole(self.warmup, 1):
            raise ValueError(f"warmup is a whole number of norms from 1, got {shown(self.warmup)}")
        if self.estimator.rows and self.warmup > self.estimator.rows:
            raise ValueError(f"{self.estimator} can never be {self.warmup} norms: give a warmup of at most its length")
        if self.readmit is not None and not is_whole(self.readmit, 1):
            raise ValueError(f"readmit is a whole number of steps from 1 or None, got {shown(self.readmit)}")
        if self.feed == "raw" and self.readmit is not None:
            raise ValueError("with feed='raw' every norm is learnt: readmit says nothing there, leave it out")
        if self.current and self.feed != "raw":
            raise ValueError("current=True learns a norm before there is a threshold for it: use feed='raw'")
        object.__setattr__(self, "keeps_rows", self.estimator.rows > 0)

    def at(self, observed: Observed, state: State) -> tuple[Array, State]:
        xp = observed.xp
        norm = xp.where(observed.learns, observed.norm, 0.0)
        memory = self._memory(state, norm * 0.0, xp)
        if self.current:
            memory = self._learnt(memory, norm, observed.learns, xp)
            return self._limit(memory, norm, xp), memory
        limit = self._limit(memory, norm, xp)
        sample, learns = self._sample(memory, norm, limit, observed)
        after = self._learnt(memory, sample, learns, xp)
        if self.readmit is not None:
            above = xp.where(norm > limit, memory["above"] + 1.0, 0.0)
            after = {**after, "above": xp.where(observed.learns, above, memory["above"])}
        return limit, after

    def memory_rows(self) -> dict[str, int]:
        return self.estimator.arrays | ({} if self.readmit is None else {"above": 0})

    def kind_of_memory(self) -> object:
        return type(self.estimator), self.memory_rows()

    def _memory(self, state: State, zero: Array, xp: ArrayFunctions) -> State:
        """The memory [G], which begins as zeros."""
        if state:
            return state
        empty = self.estimator.empty(zero, xp)
        return empty if self.readmit is None else {**empty, "above": zero}

    def _limit(self, memory: State, norm: Array, xp: ArrayFunctions) -> Array:
        limit = self.level.limit(self.estimator, memory, norm, xp)
        return xp.where(memory["count"] >= self.warmup, limit, math.inf)

    def _sample(self, memory: State, norm: Array, limit: Array, observed: Observed) -> tuple[Array, Array]:
        """What is learnt, and where."""
        xp = observed.xp
        if self.feed == "raw":
            return norm, observed.learns
        most = xp.where(limit < observed.ceiling, limit, observed.ceiling) if self.feed == "clipped" else limit
        passes = norm <= most
        if self.readmit is not None:
            passes = xp.either(passes, memory["above"] + 1.0 >= self.readmit)
        if self.feed == "accepted":
            return norm, xp.where(passes, observed.learns, False)
        return xp.where(passes, norm, most), observed.learns

    def _learnt(self, memory: State, norm: Array, learns: Array, xp: ArrayFunctions) -> State:
        after = self.estimator.learnt(memory, norm, self.warmup, xp)
        return {name: xp.where(learns, value, memory[name]) for name, value in after.items()}

    def __str__(self) -> str:
        notes = [
            f"after {self.warmup}" if self.warmup > 1 else "",
            FEEDS[self.feed],
            f"its norm after {self.readmit} in a row" if self.readmit else "",
            "this one included" * self.current,
        ]
        note = ", ".join(filter(None, notes))
        return self.level.words(self.estimator) + (f" ({note})" if note else "")


def _check_parts(estimator: object, level: object) -> None:
    if not is_part(estimator, Estimator) or not is_part(level, Level):
        raise TypeError(
            f"a History takes an estimator and a level, got {shown(estimator)} and {shown(level)}: write "
            "History(EMA(0.97), Ratio(2.0)) or History(Window(128), Sigma(6.0))"
        )
    if missing := sorted(level.needs - estimator.provides):
        raise TypeError(
            f"{type(level).__name__} asks for the {' and the '.join(missing)} of the norms, which "
            f"{type(estimator).__name__} does not tell: {_providers(missing)} does"
        )


def _providers(needs: list[str]) -> str:
    """The estimators that tell what is asked for."""
    providers = [kind.__name__ for kind in Estimator.__subclasses__() if kind.provides.issuperset(needs)]
    return " or ".join(providers)
