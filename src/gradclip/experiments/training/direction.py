"""The direction example: what clipping by value and by norm make of the same gradient.

By value each element is cut alone, so the gradient turns; by norm all are scaled alike, so it keeps its direction. Both
are in R. Pascanu, T. Mikolov, Y. Bengio 2013, arXiv:1211.5063, section 3.2; the numbers are the usual textbook ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from gradclip import ClipGradByGlobalNorm, ClipGradByValue
from gradclip.experiments.training.framework import Framework

GRADIENT = (0.8, 89.0)
THRESHOLD = 1.0
EXPECTED = {"by value 1.0": (0.8, 1.0), "by norm 1.0": (0.00899, 0.99996)}
DIGITS = 1e-5
"""The expected numbers are printed with five decimals."""


@dataclass(frozen=True)
class DirectionExample:
    """The clipped gradient by kind of clipping."""

    clipped: dict[str, tuple[float, float]]

    def turned(self, clipping: str) -> float:
        """By how many degrees clipping turned the gradient."""
        return abs(_degrees(self.clipped[clipping]) - _degrees(GRADIENT))

    def shortfalls(self) -> list[str]:
        """What is not the expected number, in words."""
        return [
            f"direction example, {name}: {list(got)} where {list(EXPECTED[name])} was expected"
            for name, got in self.clipped.items()
            if any(abs(a - b) > DIGITS for a, b in zip(got, EXPECTED[name], strict=True))
        ]


def run_direction(framework: Framework) -> DirectionExample:
    """Clip [0.8, 89.0] by value and by norm."""
    rules = (ClipGradByValue(THRESHOLD), ClipGradByGlobalNorm(THRESHOLD))
    pairs = [(first, second) for first, second in (framework.clip(GRADIENT, rule) for rule in rules)]
    return DirectionExample(dict(zip(EXPECTED, pairs, strict=True)))


def _degrees(vector: tuple[float, float]) -> float:
    return math.degrees(math.atan2(vector[1], vector[0]))
