"""The verdict: what the clipping of a run does, in one sentence."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gradclip.advice.recorded_clipping import ALWAYS, OFTEN
from gradclip.report.formatting import count, percent, short, times
from gradclip.report.numbers import Numbers

FEW = 20
"""With fewer steps a share of 5 % is not one step, and nothing is said about shares."""

GOOD, LOOK, BAD = "good", "look", "bad"


@dataclass(frozen=True)
class Verdict:
    """The kind of run, how it is to be taken (good, look, bad), and the sentence that says it with its numbers."""

    kind: str
    level: str
    sentence: str


def verdict_of(numbers: Numbers, normalised: bool = False, diverged: str | None = None) -> Verdict:
    """The first of these that is true of a run decides: nothing to judge, broken steps, the loss, the clip rate.

    `normalised`: the step of the optimizer does not grow with the gradient. `diverged` is the sentence that says that
    training diverged, if it did.
    """
    if numbers.steps == 0:
        return Verdict("empty", BAD, "No step was recorded, so there is nothing to say yet.")
    if numbers.finite == 0:
        steps = "The only step" if numbers.steps == 1 else f"Every one of the {numbers.steps:,} steps"
        return Verdict("broken", BAD, f"{steps} has NaN or infinity in its gradient: no clipping can save that.")
    if numbers.escaped:
        return broken(numbers)
    if diverged:
        return Verdict("diverged", BAD, diverged)
    if numbers.largest == 0:
        return Verdict("zero", BAD, "Every gradient is zero: either nothing is trained, or the norm is read too late.")
    if numbers.finite < FEW:
        few = f"Only {count(numbers.finite, 'step')} with a finite norm: too few to judge the clipping by."
        return Verdict("few", LOOK, few)
    if numbers.thresholds is None and not numbers.clipped:
        return measured(numbers)
    return acting(numbers, normalised)


def broken(numbers: Numbers) -> Verdict:
    """Non-finite gradients went into the optimizer."""
    which = count(numbers.escaped, "step")
    return Verdict(
        "non-finite",
        BAD,
        f"{which} of {numbers.steps:,} took NaN or infinity into the optimizer, which no threshold prevents: "
        'leave such steps out, with on_nonfinite="skip" or a loss scaler.',
    )


def measured(numbers: Numbers) -> Verdict:
    """Nothing was to be clipped."""
    if numbers.spikes:
        found = f"{count(numbers.spikes, 'spike')}, up to {times(numbers.prominence)} times the usual norm"
        return Verdict("measured, spiky", LOOK, f"Nothing was clipped, and {found}, went through: clip this run.")
    return Verdict(
        "measured, calm",
        GOOD,
        f"Nothing was clipped and nothing stood out (at most {times(numbers.prominence)} times the usual norm): "
        "clipping would have little to do here.",
    )


def acting(numbers: Numbers, normalised: bool = False) -> Verdict:
    """There was a threshold: how often did it act, and on what?"""
    if not numbers.clipped:
        return never(numbers)
    rate = f"Clipping acted on {percent(numbers.clip_rate)} of the steps"
    if numbers.clip_rate >= ALWAYS:
        what = "makes every batch count alike" if normalised else "is a hidden learning rate"
        return Verdict(
            "always",
            LOOK,
            f"{rate}: the threshold{at(numbers)} {what}, for nearly every step comes out with its length (median norm "
            f"before: {short(numbers.median)}).",
        )
    if numbers.clip_rate > OFTEN:
        why = f"it shortens ordinary steps, not only those that stand out (median norm: {short(numbers.median)})"
        return Verdict("often", LOOK, f"{rate}: with the threshold{at(numbers)} {why}.")
    return caught(numbers, rate)


def never(numbers: Numbers) -> Verdict:
    """The threshold was never reached."""
    if numbers.spikes:
        found = f"{count(numbers.spikes, 'spike')}, up to {times(numbers.prominence)} times the usual norm"
        return Verdict(
            "never, spiky", LOOK, f"Clipping never acted, and {found}, went through below the threshold{at(numbers)}."
        )
    return Verdict(
        "never",
        LOOK,
        f"Clipping never acts: no norm (largest {short(numbers.largest)}) reached the threshold{at(numbers)}, "
        "so training would be the same without it.",
    )


def caught(numbers: Numbers, rate: str) -> Verdict:
    """The rule leaves most steps alone: did it act on those that stand out?"""
    if not numbers.spikes:
        return Verdict(
            "trims",
            LOOK,
            f"{rate}, none of which stood out (at most {times(numbers.prominence)} times the usual norm): it trims "
            "ordinary noise, and little depends on it.",
        )
    spikes, top = count(numbers.spikes, "spike"), f"up to {times(numbers.prominence)} times the usual norm"
    if numbers.caught < numbers.spikes:
        return Verdict("misses", LOOK, f"{rate}, on {numbers.caught:,} of {spikes} ({top}): the rest went through.")
    which = {1: "its only spike", 2: "both spikes"}.get(numbers.spikes, f"all {spikes}")
    return Verdict("helps", GOOD, f"Clipping helps: it acted on {which} ({top}), and left {alone(numbers)} alone.")


def alone(numbers: Numbers) -> str:
    return f"{percent(1 - numbers.clip_rate)} of the steps"


def at(numbers: Numbers) -> str:
    """The threshold in numbers, where it is one for all tensors together and did not move by more than a tenth."""
    if numbers.thresholds is None or not numbers.global_threshold:
        return ""
    low, high = numbers.thresholds
    return f" of {short(high)}" if math.isclose(low, high, rel_tol=0.1) else ""
