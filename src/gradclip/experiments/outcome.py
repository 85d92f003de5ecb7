"""What one training run found, in the form in which runs under different rules are compared."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from gradclip.errors import shown
from gradclip.experiments.training.training_run import number
from gradclip.rules.arguments import checked_word, keep, real_number

DIGITS = 5
"""Significant digits of a curve in a document."""


@dataclass(frozen=True)
class Metric:
    """What rules are compared by: its name with the unit, whether the lowest or the highest is best, and how the curve
    beside it is drawn (the labels of its axes, and those of "x" and "y" that are logarithmic).

    `margin` is how large a difference may be that does not matter: state it before anything is trained, and rules can
    be shown to be equal. It is in the unit of the metric; with `relative`, as all differences are then, it is a share
    of the better of two runs (0.02 for two percent). `ValueError` for one that is not above 0, and for another `best`.

    >>> Metric("accuracy", "highest").cost(0.9) < Metric("accuracy", "highest").cost(0.8)
    True
    >>> Metric("perplexity", margin=0.02, relative=True).difference(90.0, 80.0)
    0.125
    """

    name: str = "validation loss"
    best: Literal["lowest", "highest"] = "lowest"
    x: str = "step"
    y: str = "loss"
    log: Literal["", "x", "y", "xy"] = ""
    margin: float | None = None
    relative: bool = False

    def __post_init__(self) -> None:
        checked_word(self.best, "best", ("lowest", "highest"))
        if self.margin is not None and not 0 < (real_number(self.margin) or 0.0) < math.inf:
            raise ValueError(f"a margin is a difference above 0 that does not matter, got {self.margin!r}: write 0.02")

    def cost(self, value: float) -> float:
        """A number that is lower where `value` is better; infinite where it is not finite."""
        if not math.isfinite(value):
            return math.inf
        return value if self.best == "lowest" else -value

    def difference(self, ours: float, theirs: float) -> float:
        """By how much `ours` lies above `theirs`; a run that diverged lies infinitely far on the bad side of any other,
        and two of them differ by nothing."""
        ours, theirs = self.cost(ours), self.cost(theirs)
        if ours == theirs:
            return 0.0
        further = ours - theirs if self.best == "lowest" else theirs - ours
        if not self.relative:
            return further
        better = abs(min(ours, theirs))
        return further / better if better else math.copysign(math.inf, further)


@dataclass(frozen=True)
class TrainingOutcome:
    """What one training run found.

    `metric` is what rules are compared by, so take it on the validation set, where there is one. `training` is the same
    on the training data. `curve` has points (x, y). `clipped` is the share of the steps whose gradient was clipped.
    `diverged` says where training blew up, such as "step 12"; a `metric` that is not finite is a run that diverged.
    Numbers may be those of NumPy, and tensors of one number; `TypeError` or `ValueError` for what is none.

    >>> TrainingOutcome(metric=0.25, clipped=0.1).to_json()["metric"]
    0.25
    """

    metric: float
    training: float | None = None
    curve: tuple[tuple[float, float], ...] = ()
    clipped: float | None = None
    diverged: str | None = None

    def __post_init__(self) -> None:
        keep(self, "metric", _checked("metric", self.metric))
        if self.training is not None:
            keep(self, "training", _checked("training", self.training))
        if self.clipped is not None:
            keep(self, "clipped", _checked("clipped", self.clipped))
            if not 0.0 <= self.clipped <= 1.0:
                raise ValueError(f"clipped is a share of the steps, from 0 to 1 or None, got {self.clipped}")

    def to_json(self) -> dict[str, Any]:
        """The outcome for JSON; a number that is not finite is null."""
        return {
            "metric": number(self.metric),
            "training": None if self.training is None else number(self.training),
            "clipped": self.clipped,
            "diverged": self.diverged,
            "curve": [[_rounded(x), _rounded(y)] for x, y in self.curve],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TrainingOutcome:
        """The outcome that `to_json` wrote."""
        curve = tuple((_number(x), _number(y)) for x, y in data["curve"])
        return cls(_number(data["metric"]), data["training"], curve, data["clipped"], data["diverged"])


@dataclass(frozen=True)
class Trained:
    """A run: its seed, what it found, and how long it took.

    >>> Trained(0, TrainingOutcome(float("inf")), 1.5).diverged
    'seed 0 at the end'
    """

    seed: int
    outcome: TrainingOutcome
    seconds: float

    @property
    def diverged(self) -> str | None:
        """Which run this is and where it blew up, None where it did not."""
        if self.outcome.diverged is not None:
            return f"seed {self.seed} at {self.outcome.diverged}"
        if not math.isfinite(self.outcome.metric):
            return f"seed {self.seed} at the end"
        return None

    def to_json(self) -> dict[str, Any]:
        """The run for JSON."""
        return {"seed": self.seed, "seconds": round(self.seconds, 2), **self.outcome.to_json()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Trained:
        """The run that `to_json` wrote."""
        return cls(data["seed"], TrainingOutcome.from_json(data), data["seconds"])


def _checked(name: str, value: object) -> float:
    found = real_number(value)
    if found is None:
        raise TypeError(f"{name} is one number, got {shown(value)}")
    return found


def _rounded(value: float) -> float | None:
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
