"""A threshold that remembers, for tests: twice the running mean of the norms that it was allowed to learn from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gradclip.rules.threshold import Threshold


@dataclass(frozen=True)
class Following(Threshold):
    adapts: ClassVar[bool] = True
    limit: float = 1.0

    def at(self, observed, state):
        xp, norm = observed.xp, observed.norm
        mean, count = state.get("mean", 0.0), state.get("count", 0.0)
        threshold = xp.where(count > 0, 2.0 * mean, self.limit) if state else self.limit
        learnt = mean + (norm - mean) / (count + 1.0)
        after = {
            "mean": xp.where(observed.learns, learnt, mean),
            "count": xp.where(observed.learns, count + 1.0, count),
        }
        return threshold, after

    def __str__(self):
        return f"{self.limit:g}, later twice the mean"
