"""Runs of the same training under several rules, side by side: medians, spreads, and which differences are noise."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from gradclip.experiments.holm import SURVIVES, corrected_for_number
from gradclip.experiments.outcome import Metric, Trained
from gradclip.experiments.paired_difference import CONFIDENCE, PairedDifference, equal_within
from gradclip.experiments.sign_test import BETTER, WITHIN_NOISE, WORSE, paired_chance, paired_verdict
from gradclip.experiments.training.training_run import number

SCHEMA = "gradclip.compare/1"
EQUAL = "equal"


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
    >>> comparison.difference("global:1")
    PairedDifference(median=-6.0, low=-8.0, high=-6.0, confidence=0.9375)
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
        """ "better", "worse", "equal" or "within noise": rule `text` against `than`, which is the first if not given.

        The first two are by the sign test, uncorrected. Of the others "equal" is shown, by the margin of the metric;
        "within noise" is neither shown to differ nor to be equal. See `finding` for all that is shown.
        """
        verdict = paired_verdict(*self._costs(text, than))
        return EQUAL if verdict == WITHIN_NOISE and self.equal(text, than) else verdict

    def difference(self, text: str, than: str | None = None, confidence: float = CONFIDENCE) -> PairedDifference:
        """By how much the metric of `text` lies above that of `than`, seed by seed: the median with its interval, in
        the unit of the metric, or in shares where that is relative. Below 0 is better where the lowest is best."""
        return PairedDifference.of(self._differences(text, than), confidence)

    def equal(self, text: str, than: str | None = None) -> bool:
        """Whether both are shown to differ by less than the margin of the metric; never without one."""
        margin = self.metric.margin
        return margin is not None and equal_within(self._differences(text, than), margin)

    def chance(self, text: str, than: str | None = None) -> float:
        """The two-sided chance of the sign test: that of what was found or more, were both rules as good."""
        return paired_chance(*self._costs(text, than))

    def corrected_chance(self, text: str, than: str | None = None) -> float:
        """The same, corrected by Holm for all rules that are compared with the first. Against another one, such as the
        best, which was chosen by what was found, the correction is for every pair of rules."""
        pair = {text, self.baseline.text if than is None else than}
        if len(pair) == 1:
            return 1.0
        family = self._compared_with(pair)
        return corrected_for_number([self.chance(*one) for one in family])[[set(one) for one in family].index(pair)]

    def finding(self, text: str, than: str | None = None) -> str:
        """The verdict with what is shown beside: whether it stands at 5 % when it is corrected for the number of rules,
        and whether the difference is smaller than the margin.

        >>> from gradclip.experiments import TrainingOutcome
        >>> def ended(text, metric):
        ...     return Contender(text, "", tuple(Trained(seed, TrainingOutcome(metric), 1.0) for seed in range(7)))
        >>> both = ended("none", 2.5), ended("global:1", 2.49)
        >>> Comparison("training", Metric(margin=0.02), both, {}).finding("global:1")
        'better by less than the margin, also corrected'
        """
        verdict = self.verdict(text, than)
        if verdict not in (BETTER, WORSE):
            return verdict
        small = " by less than the margin" if self.equal(text, than) else ""
        return verdict + small + (", also corrected" if self.corrected_chance(text, than) <= SURVIVES else "")

    def wins(self, text: str, than: str) -> int:
        """The number of seeds on which rule `text` has a better metric than `than`."""
        return sum(ours < theirs for ours, theirs in zip(*self._costs(text, than), strict=True))

    def as_good_as_the_best(self) -> list[str]:
        """The rules that are not shown to be worse than the best: equal, or within noise."""
        others = [contender.text for contender in self.contenders if contender is not self.best]
        return [text for text in others if self.verdict(text, self.best.text) in (EQUAL, WITHIN_NOISE)]

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
                    "against_first": None if contender is self.baseline else self._against_first(contender.text),
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

    def _against_first(self, text: str) -> dict[str, Any]:
        """What was found of a rule against the first one, for JSON."""
        difference, first = self.difference(text), self.baseline.text
        return {
            "verdict": self.verdict(text),
            "wins": self.wins(text, first),
            "losses": self.wins(first, text),
            "difference": number(difference.median),
            "low": number(difference.low),
            "high": number(difference.high),
            "confidence": difference.confidence,
            "chance": self.chance(text),
            "corrected_chance": self.corrected_chance(text),
            "equal": None if self.metric.margin is None else self.equal(text),
        }

    def _costs(self, text: str, than: str | None) -> tuple[list[float], list[float]]:
        """The costs of both rules, seed by seed."""
        ours, theirs = ([self.metric.cost(value) for value in one.metrics] for one in self._both(text, than))
        return ours, theirs

    def _differences(self, text: str, than: str | None) -> list[float]:
        ours, theirs = self._both(text, than)
        return [self.metric.difference(*pair) for pair in zip(ours.metrics, theirs.metrics, strict=True)]

    def _both(self, text: str, than: str | None) -> tuple[Contender, Contender]:
        return self[text], self.baseline if than is None else self[than]

    def _compared_with(self, pair: set[str]) -> list[tuple[str, str]]:
        """The pairs of rules that this one is among: those with the first, or all."""
        texts = [contender.text for contender in self.contenders]
        if self.baseline.text in pair:
            return [(text, self.baseline.text) for text in texts[1:]]
        return list(itertools.combinations(texts, 2))

    def _median_cost(self, contender: Contender) -> float:
        return statistics.median(map(self.metric.cost, contender.metrics))
