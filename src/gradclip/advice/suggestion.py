"""Which threshold a run suggests: a quantile of its norms where they are warm, how sure it is, and why.

What is read is the norm before clipping. Which quantile it is depends on the shape of the norms alone: see `CHOICES`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

from gradclip.advice.bootstrap import quantile_range
from gradclip.advice.reasons import caveats_of, reason_of
from gradclip.advice.replay import replay
from gradclip.rules.norm import L1, L2, RMS, Linf
from gradclip.rules.text import rule_from_text
from gradclip.telemetry.event import Event
from gradclip.telemetry.spikes import FEW
from gradclip.verdict.divergence import diverged
from gradclip.verdict.judge import EXPLODED, OFTEN, Verdict, verdict_of
from gradclip.verdict.numbers import Numbers, numbers_of, with_level
from gradclip.verdict.quantiles import quantile
from gradclip.verdict.shape import SHORTEST_BLOCK, WIDE, Shape, shape_of

FINE = ("guard", "start")
"""Verdicts on runs whose clipping does what it should."""
RATE = 0.05
"""How fast a tracked quantile walks: at most by 5 % a step."""
RECIPES = {"global": "ClipGradByGlobalNorm", "quantileclip": "QuantileClip"}
DIGITS = 3
OTHER_NORMS = {norm.__name__: norm.words for norm in (Linf, L1, RMS)}


class Choice(NamedTuple):
    """A threshold: the norm that this share of the steps lies below, times a factor."""

    share: float
    factor: float = 1.0


CHOICES = {
    "steady": Choice(0.95),
    "spiky": Choice(0.95),
    "drifting": Choice(0.95),
    "wide": Choice(0.5),
    "two levels": Choice(0.99, 1.5),
    "runaway": Choice(0.05, 0.25),
    "constant": Choice(0.5),
}
"""The threshold for each shape of norms, a drifting one's where it is not wide; docs/decisions/0025 says why."""


@dataclass(frozen=True)
class Suggestion:
    """What a run suggests.

    `rule` is a text for `gradclip.rules.text.rule_from_text`, None where there is nothing to propose. `threshold` is
    the number to clip the global norm at (where the level of the norms moves, that of the end of the run); `low` and
    `high` are a range for it with a confidence of 90 %, None of fewer than ten steps. `clip_rate` is what `rule` would
    have done to the `warm` steps, those after the `warmup` (or before the norms ran away), and `whole_rate` what to all
    usable `steps`. `now` is the threshold that the run had, the median where it moved, None where it had none.
    `kind` is the shape of the norms in a word. With `leave` the run is best left as it is.
    """

    kind: str
    reason: str
    steps: int
    warmup: int = 0
    warm: int = 0
    rule: str | None = None
    threshold: float | None = None
    low: float | None = None
    high: float | None = None
    clip_rate: float | None = None
    whole_rate: float | None = None
    now: float | None = None
    leave: bool = False
    caveats: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The suggestion as plain data for JSON."""
        return {**asdict(self), "caveats": list(self.caveats), "expression": self.expression}

    @property
    def expression(self) -> str | None:
        """The rule as it is written in Python."""
        return None if self.rule is None else expression_of(self.rule)


def expression_of(rule: str) -> str:
    """A rule that is suggested as text, as it is written in Python.

    >>> expression_of("quantileclip:0.95,rate=0.05")
    'QuantileClip(0.95, rate=0.05)'
    """
    name, _, arguments = rule.partition(":")
    return f"{RECIPES[name]}({arguments.replace(',', ', ')})"


def suggest(run: Sequence[Event], mistakes: int = 0) -> Suggestion:
    """The threshold that the events of a run suggest, or why there is none.

    `mistakes` is how many `gradclip.doctor.diagnose` finds in the script: of the norms of such a run nothing follows.

    >>> calm = [Event(i, "", "cpu", 1.0 + i % 10 / 10, 1.0 + i % 10 / 10, 9.0, 1.0, False) for i in range(1000)]
    >>> found = suggest(calm)
    >>> found.kind, found.expression, found.clip_rate
    ('steady', 'ClipGradByGlobalNorm(1.9)', 0.0)
    """
    norms, numbers = usable(run), numbers_of(run)
    verdict = verdict_of(numbers, diverged(run), mistakes)
    if refused := refusal(run, norms, verdict):
        return Suggestion(*refused, len(norms))
    shape = shape_of(norms)
    if shape.kind == "runaway" and quantile(shape.recent, 0.5) > EXPLODED * norms[0]:
        return Suggestion("exploding", explosion(norms), len(norms))
    found = proposal(shape, numbers)
    inside = found.low <= numbers.threshold <= found.high and shape.kind not in ("drifting", "runaway")
    known = Suggestion(
        kind=shape.kind,
        reason=reason_of(shape, found.threshold),
        steps=len(norms),
        warmup=shape.warmup,
        warm=len(shape.warm),
        now=numbers.threshold if math.isfinite(numbers.threshold) else None,
        leave=shape.kind == "constant" or numbers.clip_rate >= OFTEN or inside or is_fine(verdict, shape),
        caveats=tuple(caveats_of(shape, numbers, verdict, found.threshold)),
    )
    if shape.kind == "constant":
        return known
    known = replace(known, rule=found.rule, threshold=found.threshold, clip_rate=found.clip_rate)
    known = replace(known, whole_rate=replay(norms, rule_from_text(found.rule)).clip_rate)
    return replace(known, low=found.low, high=found.high) if len(shape.recent) >= SHORTEST_BLOCK else known


def is_fine(verdict: Verdict, shape: Shape) -> bool:
    """Whether clipping does what it should, or there was none and a threshold would have little to do."""
    return verdict.kind in FINE or (verdict.kind == "measured, calm" and shape.kind == "steady")


class Proposal(NamedTuple):
    """A rule as text, its threshold with a range for it, and the share of the warm steps that it would have clipped."""

    rule: str
    threshold: float
    low: float
    high: float
    clip_rate: float


def proposal(shape: Shape, numbers: Numbers) -> Proposal:
    """What norms of this shape ask for."""
    share, factor = CHOICES["wide" if shape.kind == "drifting" and shape.width > WIDE else shape.kind]
    most = math.inf if shape.runaway is None else factor * numbers.threshold  # under which it ran away
    found = (quantile(shape.recent, share), *quantile_range(shape.recent, share))
    threshold, low, high = (rounded(min(factor * norm, most)) for norm in found)
    rule = f"quantileclip:{share:g},rate={RATE:g}" if shape.kind == "drifting" else f"global:{threshold:g}"
    return Proposal(rule, threshold, low, high, replay(shape.warm, rule_from_text(rule)).clip_rate)


def usable(run: Sequence[Event]) -> list[float]:
    """The norms before clipping that are finite and above 0, and no breakdown of arithmetic."""
    return [event.norm_before for event in with_level(run)]


def refusal(run: Sequence[Event], norms: Sequence[float], verdict: Verdict) -> tuple[str, str] | None:
    """Why a run suggests nothing, as a word and a sentence; `norms` are the usable ones."""
    if verdict.kind == "mistaken":
        return "mistakes", verdict.sentence
    if other := next((event.norm for event in run if event.norm != L2.__name__), None):
        return "another norm", (
            f"the run recorded {OTHER_NORMS.get(other, 'another norm')}, and a threshold for the global norm needs the "
            "L2 norm of all tensors: record one with ClipGradByGlobalNorm(None), which measures and clips nothing"
        )
    if run and all(event.norm_before == 0.0 for event in run):
        return "zeros", "every norm is 0: no gradient reached the parameters that were clipped"
    if len(norms) >= FEW:
        return None
    way = "record a longer run"
    if norms and (verdict.kind != "few" or max(norms) > EXPLODED * norms[0]):
        first = rounded(CHOICES["runaway"].factor * min(norms))
        way += f"; where training breaks before that, record it under ClipGradByGlobalNorm({first:g})"
    return "too little data", (
        f"{len(norms)} of {len(run)} recorded steps have a finite norm above 0, and {FEW} are needed: {way}"
    )


def explosion(norms: Sequence[float]) -> str:
    """Why no threshold follows from norms that grew from the first step on."""
    return (
        f"the norms grew from {norms[0]:.3g} on, to {max(norms):.3g}: no level tells an ordinary step from a bad one. "
        "Lower the learning rate first, and ask again"
    )


def rounded(norm: float) -> float:
    """A number with three digits, as it is pasted."""
    return float(f"{norm:.{DIGITS}g}")
