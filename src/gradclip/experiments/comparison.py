"""Runs of the same training under several rules, side by side: medians, spreads, and which differences are noise."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from gradclip.experiments.outcome import Metric, Trained
from gradclip.experiments.sign_test import WITHIN_NOISE, paired_verdict

SCHEMA = "gradclip.compare/1"


@dataclass(frozen=True)
class Contender:
    """One rule: the text that names it, the sentence that it says of itself, and its runs by seed.

    >>> from gradclip.experiments import TrainingOutcome
    >>> runs = tuple(Trained(seed, TrainingOutcome(metric), 1.0) for seed, metric in enumerate((0.1, 0.3)))
    >>> Contender("none", "a sentence", runs).metrics
    [0.1, 0.3]
    """

    text: str
    sentence: str
    runs: tuple[Trained, ...]

    @property
    def metrics(self) -> list[float]:
        """The metric of each run."""
        return [run.outcome.metric for run in self.runs]

    @property
    def diverged(self) -> list[str]:
        """The runs that blew up, in words."""
        return [run.diverged for run in self.runs if run.diverged is not None]

    @property
    def clipped(self) -> float | None:
        """The mean share of the steps that were clipped, where each run says it."""
        shares = [run.outcome.clipped for run in self.runs]
        return None if None in shares else statistics.fmean(share for share in shares if share is not None)

    @property
    def training(self) -> float | None:
        """The median of the metric on the training data, where each run has it."""
        values = [run.outcome.training for run in self.runs]
        return None if None in values else statistics.median(value for value in values if value is not None)

    @property
    def seconds(self) -> float:
        """The median duration of a run."""
        return statistics.median(run.seconds for run in self.runs)


@dataclass(frozen=True)
class Comparison:
    """All runs of all rules on the same seeds. The first rule is the one that the others are compared with.

    >>> from gradclip.experiments import TrainingOutcome
    >>> def ended(text, *metrics):
    ...     return Contender(text, "", tuple(Trained(seed, TrainingOutcome(m), 1.0) for seed, m in enumerate(metrics)))
    >>> both = ended("none", 9.0, 8.0, 9.0, 7.0, 8.0), ended("global:1", 1.0, 2.0, 1.0, 1.0, 2.0)
    >>> comparison = Comparison("training", Metric(), both, {})
    >>> comparison.best.text, comparison.verdict("global:1")
    ('global:1', 'better')
    """

    title: str
    metric: Metric
    contenders: tuple[Contender, ...]
    versions: Mapping[str, str]

    def __getitem__(self, text: str) -> Contender:
        """The rule that was given by `text`."""
        found = {contender.text: contender for contender in self.contenders}
        if text not in found:
            raise KeyError(f"no rule {text!r} was compared: there are {', '.join(found)}")
        return found[text]

    def __contains__(self, text: str) -> bool:
        return any(contender.text == text for contender in self.contenders)

    @property
    def seeds(self) -> list[int]:
        """The seeds that every rule was trained on."""
        return [run.seed for run in self.contenders[0].runs]

    @property
    def baseline(self) -> Contender:
        """The first rule."""
        return self.contenders[0]

    @property
    def best(self) -> Contender:
        """The rule with the best median; the first of them if there are several."""
        return min(self.contenders, key=self._median_cost)

    def median(self, text: str) -> float:
        """The median of the metric; a run that diverged counts as worse than any number, and infinity says so."""
        cost = self._median_cost(self[text])
        return cost if self.metric.best == "lowest" or math.isinf(cost) else -cost

    def spread(self, text: str) -> tuple[float, float]:
        """The smallest and the largest finite metric; NaN where there is none."""
        finite = [value for value in self[text].metrics if math.isfinite(value)]
        return (min(finite), max(finite)) if finite else (math.nan, math.nan)

    def verdict(self, text: str, than: str | None = None) -> str:
        """ "better", "worse" or "within noise": rule `text` against `than`, which is the first if not given."""
        ours, theirs = self[text], self.baseline if than is None else self[than]
        return paired_verdict(
            *([self.metric.cost(value) for value in contender.metrics] for contender in (ours, theirs))
        )

    def wins(self, text: str, than: str) -> int:
        """The number of seeds on which rule `text` has a better metric than `than`."""
        pairs = zip(self[text].metrics, self[than].metrics, strict=True)
        return sum(self.metric.cost(ours) < self.metric.cost(theirs) for ours, theirs in pairs)

    def as_good_as_the_best(self) -> list[str]:
        """The rules whose difference from the best is within noise."""
        others = [contender.text for contender in self.contenders if contender is not self.best]
        return [text for text in others if self.verdict(text, self.best.text) == WITHIN_NOISE]

    def to_json(self) -> dict[str, Any]:
        """One document with every run."""
        return {
            "schema": SCHEMA,
            "title": self.title,
            "versions": dict(self.versions),
            "metric": asdict(self.metric),
            "seeds": self.seeds,
            "rules": [
                {
                    "text": contender.text,
                    "sentence": contender.sentence,
                    "runs": [run.to_json() for run in contender.runs],
                }
                for contender in self.contenders
            ],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Comparison:
        """The comparison that `to_json` wrote."""
        if data.get("schema") != SCHEMA:
            raise ValueError(f"not a comparison: expected the schema {SCHEMA!r}, found {data.get('schema')!r}")
        contenders = [
            Contender(rule["text"], rule["sentence"], tuple(map(Trained.from_json, rule["runs"])))
            for rule in data["rules"]
        ]
        return cls(data["title"], Metric(**data["metric"]), tuple(contenders), data["versions"])

    def _median_cost(self, contender: Contender) -> float:
        return statistics.median(map(self.metric.cost, contender.metrics))
