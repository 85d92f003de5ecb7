"""What trainings under several thresholds are compared by, and whether it is a measure of them at all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median

from gradclip.advice.metric import ABSENT, RETURNS, ScriptMetric, TableState
from gradclip.telemetry.runs import Run
from gradclip.verdict.formatting import short
from gradclip.verdict.losses import FEWEST, end_of, final_loss, losses_of, lower, lower_by_rank, part_of

HALF = 0.5
"""A median that is lower than this share of another says more than a mean that a few losses carry."""


@dataclass(frozen=True)
class Judged:
    """What a training is compared by: `ends` are numbers of its end, of which lower ones are better.

    `value` is what they say of it together as a person reads it, infinite where the training broke and NaN where a
    number of them is not finite; `score` is the same where lower is better, infinite in either case.
    """

    ends: tuple[float, ...] = ()
    value: float = math.inf
    score: float = math.inf

    def beats(self, other: Judged) -> bool:
        """Whether this training did better than another, by more than noise."""
        if not math.isfinite(other.score):
            return math.isfinite(self.score)
        return math.isfinite(self.score) and lower(self.ends, other.ends)


@dataclass(frozen=True)
class Judge:
    """Judges trainings by a metric, or by the training loss where there is none."""

    metric: ScriptMetric | None = None

    def of(self, run: Run, path: Path, log: Path, broke: bool, before: TableState = ABSENT) -> Judged:
        """What the training recorded in `path` and printed to `log` is compared by; it `broke` with an error.

        `before` is what a table was already.
        """
        if self.metric is None:
            ends, value = end_of(run), final_loss(run)
            score = math.inf if broke or value is None else value
            return Judged(tuple(ends), score, score)
        values = self.metric.values(path, log, before)
        last = values[len(values) - part_of(values) :]
        sign = -1.0 if self.metric.maximize else 1.0
        well = last and not broke and all(map(math.isfinite, last))
        value = fmean(last) if well else math.inf if broke else math.nan
        return Judged(tuple(sign * number for number in last), value, sign * value if well else math.inf)

    def unclear(self, runs: Sequence[Run], ends: Sequence[Sequence[float]], offered: Sequence[str]) -> str:
        """Why the training loss is no measure of these trainings; nothing where it is one, or a metric is given.

        `runs` are those of the optimizers of the script as it is, `ends` the last losses of each training (that one,
        too), `offered` the names of metrics that it gives.
        """
        if self.metric is not None:
            return ""
        policy = next((name for name in offered if RETURNS.search(name)), None)
        if policy is not None:
            return f"this script gives {policy!r}, and the loss of what is trained for a return does not measure it"
        if losses_differ(runs):
            return (
                f"the {len(runs)} optimizers of this script have losses of their own, of which none measures the whole"
            )
        if not any(fell_to(runs[0], end) for end in ends):
            return (
                "the training loss fell under no threshold that was tried: a few large losses may carry it, or it "
                "does not measure what is trained"
            )
        return outliers(ends)

    def __str__(self) -> str:
        return "the training loss" if self.metric is None else str(self.metric)


NOT_JUDGED = Judged()
BY_LOSS = Judge()


def losses_differ(runs: Sequence[Run]) -> bool:
    """Whether several optimizers were fed by different losses, as in a GAN; those of one loss share it step by step."""
    first, *others = [losses_of(run) for run in runs]
    return any(
        len(other) != len(first) or any(not math.isclose(a, b, rel_tol=1e-6) for a, b in zip(first, other, strict=True))
        for other in others
    )


def fell_to(run: Run, end: Sequence[float]) -> bool:
    """Whether losses at the end of a training lie below those where `run` began."""
    losses = losses_of(run)
    began = losses[: part_of(losses)]
    if min(len(end), len(began)) < FEWEST:
        return bool(end) and bool(began) and median(end) < median(began)
    return lower_by_rank(end, began)


def outliers(ends: Sequence[Sequence[float]]) -> str:
    """Where a few large losses carry the mean, so that it and the median do not agree on which training is better."""
    known = [list(end) for end in ends if end and all(map(math.isfinite, end))]
    if len(known) < 2:
        return ""
    best = min(known, key=fmean)
    for end in known:
        if fmean(end) >= fmean(best) and median(end) < HALF * median(best) and lower_by_rank(end, best):
            return (
                f"a few large losses carry the mean: it is lowest at {short(fmean(best))}, where the median is "
                f"{short(median(best))}, and under another threshold the median is {short(median(end))}"
            )
    return ""
