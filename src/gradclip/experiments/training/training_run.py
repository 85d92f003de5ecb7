"""What a training run leaves behind: its curves, how it ended, and the same as JSON without NaN."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple


class TrainingStep(NamedTuple):
    """One step of training: the loss before its update, and the L2 norm of the whole gradient around the clipping."""

    step: int
    loss: float
    norm_before: float
    norm_after: float


@dataclass(frozen=True)
class TrainingRun:
    """One training run. `end` is its result by the measure of its experiment; non-finite where training blew up."""

    clipping: str
    seed: int
    learning_rate: float
    steps: tuple[TrainingStep, ...]
    end: float
    engine: str | None

    @property
    def start(self) -> float:
        """The loss before any update."""
        return self.steps[0].loss

    @property
    def broke_at(self) -> int | None:
        """The first step whose loss is infinite or NaN."""
        return next((step.step for step in self.steps if not math.isfinite(step.loss)), None)

    @property
    def largest_norm(self) -> float:
        """The largest finite norm before clipping."""
        return max((step.norm_before for step in self.steps if math.isfinite(step.norm_before)), default=math.nan)

    @property
    def share_clipped(self) -> float:
        """The share of the steps in which clipping changed the gradient."""
        return sum(step.norm_after < step.norm_before for step in self.steps) / len(self.steps)

    def to_json(self) -> dict[str, Any]:
        """The run with its curves as columns; a number that is not finite is null and `broke_at` says where."""
        columns = zip(*(map(number, step) for step in self.steps), strict=True)
        return {
            "clipping": self.clipping,
            "seed": self.seed,
            "learning_rate": self.learning_rate,
            "engine": self.engine,
            "start": number(self.start),
            "end": number(self.end),
            "nonfinite": self.broke_at is not None or not math.isfinite(self.end),
            "broke_at": self.broke_at,
            "share_clipped": self.share_clipped,
            "curves": dict(zip(TrainingStep._fields, map(list, columns), strict=True)),
        }


def number(value: float) -> float | None:
    """`value` for JSON, which has no NaN and no infinity."""
    return value if math.isfinite(value) else None


def runs_of(runs: tuple[TrainingRun, ...], clipping: str) -> list[TrainingRun]:
    """The runs of one kind of clipping, by seed."""
    return [run for run in runs if run.clipping == clipping]
