"""What if: other thresholds and rules, replayed over the norms that a run recorded."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass

from gradclip.advice.replay import replay
from gradclip.advice.suggestion import suggest
from gradclip.rules.text import rule_from_text
from gradclip.telemetry.event import Event
from gradclip.telemetry.spikes import SPIKE
from gradclip.verdict.formatting import count, short
from gradclip.verdict.numbers import acted, broken, kept
from gradclip.verdict.quantiles import quantile

LONGEST = 20_000
"""The last so many steps of a longer run are replayed."""

ADAPTIVE = {
    "autoclip": "AutoClip: the 10th percentile of the last norms",
    "autoclip:90": "AutoClip at the 90th percentile",
    "zclip:max_norm=None": "ZClip: outliers among the last norms, without a fixed bound",
}
CANNOT_KNOW = (
    "A replay knows the norms that were recorded and nothing else. Clipping changes the training, and so the norms "
    "that come after: another rule would have met other norms, and which rule trains better only training shows "
    "(gradclip watch --rule)."
)


@dataclass(frozen=True)
class ReplayedRule:
    """What a rule does to the recorded norms; `rule` is its text, None for the run itself.

    `clip_rate` is a share of the finite steps, `kept` what comes out of all steps over what goes in, `largest` the
    largest norm that is let through.
    """

    words: str
    rule: str | None
    clip_rate: float
    kept: float
    largest: float


@dataclass(frozen=True)
class WhatIf:
    """The rows, the run's own first, and what is to be said of them."""

    rows: list[ReplayedRule]
    note: str


def what_if(events: Sequence[Event]) -> WhatIf | None:
    """Candidates replayed over the last 20,000 steps of a run; None where no norm is above 0."""
    part = events[-LONGEST:]
    finite = [event for event in part if not broken(event)]
    norms = sorted(event.norm_before for event in finite)
    if not norms or norms[-1] == 0:
        return None
    recorded_row = ReplayedRule(
        "as recorded",
        None,
        sum(map(acted, finite)) / len(finite),
        kept(finite),
        max(event.norm_after for event in finite),
    )
    recorded = [event.norm_before for event in part]
    proposed = suggested(part)
    candidates = {**proposed, **fixed(norms), **adaptive(), **proposed}  # first, and by its own words
    return WhatIf(
        [recorded_row, *(row(words, text, recorded) for text, words in candidates.items())],
        note(len(part), len(events)),
    )


def suggested(events: Sequence[Event]) -> dict[str, str]:
    """What the run itself suggests, where it suggests something else than it had."""
    found = suggest(events)
    return {} if found.rule is None or found.leave else {found.rule: "what gradclip suggest proposes"}


def fixed(norms: Sequence[float]) -> dict[str, str]:
    """Fixed thresholds from the sorted norms, by the text of the rule; those that are 0 are none."""
    median = quantile(norms, 0.5)
    levels = {
        "the median norm": median,
        "the 90th percentile": quantile(norms, 0.9),
        "the 99th percentile": quantile(norms, 0.99),
        f"{SPIKE:g} times the median": SPIKE * median,
    }
    return {f"global:{level:.3g}": f"{words}, {short(level)}" for words, level in levels.items() if level > 0}


def adaptive() -> dict[str, str]:
    """The adaptive rules that can be replayed here: a window of norms takes NumPy."""
    return ADAPTIVE if importlib.util.find_spec("numpy") else {"zclip:max_norm=None": ADAPTIVE["zclip:max_norm=None"]}


def row(words: str, text: str, norms: Sequence[float]) -> ReplayedRule:
    """The row of one rule."""
    found = replay(norms, rule_from_text(text))
    return ReplayedRule(words, text, found.clip_rate, found.kept, found.largest)


def note(replayed: int, steps: int) -> str:
    """Which steps were replayed, where not all, and what is missing."""
    part = f"Replayed over the last {count(replayed, 'step')} of {steps:,}. " if replayed < steps else ""
    missing = "" if importlib.util.find_spec("numpy") else 'AutoClip is replayed with pip install "gradclip[cpu]". '
    return part + missing
