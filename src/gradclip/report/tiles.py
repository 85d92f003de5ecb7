"""The tiles of a run: a few numbers, each with what it is and a remark, as every form of the report shows them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gradclip.report.summary import Summary
from gradclip.verdict.formatting import count, known, percent, short
from gradclip.verdict.numbers import Numbers, broken


@dataclass(frozen=True)
class Tile:
    label: str
    value: str
    remark: str
    wide: bool = False
    """Whether the tile takes the place of two."""


def tiles_of(summary: Summary) -> list[Tile]:
    """The loss where there is one, steps, clip rate, median and 99th percentile of the norm, non-finite and skipped."""
    numbers = summary.numbers
    return [
        *loss_tile(numbers),
        Tile("Steps", f"{numbers.steps:,}", f"{numbers.first:,} to {numbers.last:,}" if numbers.steps else "none yet"),
        Tile("Clip rate", percent(numbers.clip_rate), f"{numbers.clipped:,} of {count(numbers.finite, 'finite step')}"),
        Tile("Median norm", known(numbers.median), threshold_in_words(numbers)),
        Tile("99th percentile", known(numbers.p99), f"largest norm {known(numbers.largest)}"),
        Tile("Non-finite steps", f"{numbers.nonfinite:,}", first_broken(summary)),
        Tile(
            "Skipped steps",
            f"{numbers.skipped:,}",
            "left out by the optimizer" if numbers.skipped else "all were taken",
        ),
    ]


def loss_tile(numbers: Numbers) -> list[Tile]:
    """The loss at the beginning and at the end."""
    if numbers.first_loss is None or numbers.final_loss is None:
        return []
    first, last = map(mean_in_words, (numbers.first_loss, numbers.final_loss))
    remark = "means of the first and of the last tenth of the steps"
    broken = f"; NaN or infinity: {count(numbers.nonfinite_losses, 'step')}" if numbers.nonfinite_losses else ""
    return [Tile("Loss", f"{first} → {last}", remark + broken, wide=True)]


def mean_in_words(loss: float) -> str:
    return short(loss) if math.isfinite(loss) else "not finite"


def threshold_in_words(numbers: Numbers) -> str:
    """The threshold, or the range of those that changed."""
    if numbers.thresholds is None:
        return "no threshold"
    low, high = map(short, numbers.thresholds)
    kind = "threshold" if numbers.global_threshold else "thresholds of parts"
    return f"{kind} {low}" if low == high else f"{kind} {low} to {high}"


def first_broken(summary: Summary) -> str:
    """When the first non-finite step was."""
    first = next((event.step for event in summary.run if broken(event)), None)
    return "NaN or infinity: none" if first is None else f"the first is step {first:,}"


def facts_of(summary: Summary) -> str:
    """By what the run was made, so far as it says: the script that was watched, the framework, the engine."""
    about, run = summary.run.about, summary.run
    framework = f"{about.get('framework', '')} {about.get('framework_version', '')}".strip()
    parameters, script = about.get("parameters"), about.get("script")
    arguments = script.get("arguments", []) if isinstance(script, dict) else []
    facts = [
        " ".join(map(str, arguments)),
        framework,
        f"gradclip {about['gradclip']}" if "gradclip" in about else "",
        f"engine {run[-1].engine}" if run and run[-1].engine else "",
        count(len(parameters), "parameter tensor") if parameters and isinstance(parameters, dict) else "",
    ]
    return " · ".join(fact for fact in facts if fact)
