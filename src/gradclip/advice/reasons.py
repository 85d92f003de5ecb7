"""What a suggestion says: the reason for it, and what to mind."""

from __future__ import annotations

import math
from collections.abc import Iterator

from gradclip.verdict.formatting import percent, short
from gradclip.verdict.judge import OFTEN, Verdict
from gradclip.verdict.numbers import Numbers
from gradclip.verdict.quantiles import quantile
from gradclip.verdict.shape import WIDE, Shape

MANY = 0.02
MOVED = 2.0
"""From this ratio of the largest threshold of a run to the least on, it was none that stands still."""
SMALL = 0.05
"""The share of the norms before they ran away that are small."""


def reason_of(shape: Shape, threshold: float) -> str:
    """Why this threshold, in a sentence."""
    return REASONS[shape.kind](shape, threshold)


def _steady(shape: Shape, threshold: float) -> str:
    rare = f"; {percent(shape.spikes)} are spikes of more than three times that" if shape.kind == "spiky" else ""
    steps = f"the steps after the first {shape.warmup}" if shape.warmup else "the steps"
    return (
        f"ordinary norms lie around {_middle(shape)} and 95 % of {steps} below {threshold:g}{rare}: a threshold "
        "there leaves ordinary steps alone and cuts the rare large ones"
    )


def _drifting(shape: Shape, threshold: float) -> str:
    which = (
        f"the median, as the norms are spread widely ({shape.width:.2g} to 1)"
        if shape.width > WIDE
        else "the 95 % quantile"
    )
    return (
        f"the norms {'rise' if shape.drift > 1.0 else 'fall'}: the level of the last quarter is {shape.drift:.2g} "
        "times that of the first, and a fixed threshold would clip ever more or ever less; this one follows "
        f"{which}, which is {threshold:g} at the end of this run"
    )


def _wide(shape: Shape, threshold: float) -> str:
    return (
        f"the norms are spread widely (the 95 % quantile is {shape.width:.2g} times the median), with no edge between "
        f"ordinary and bad steps: the threshold is the median, {threshold:g}, so that no step is longer than usual"
    )


def _two_levels(shape: Shape, threshold: float) -> str:
    levels = shape.levels
    assert levels is not None
    return (
        f"the norms have two levels, {levels.lower:.3g} and {levels.upper:.3g}, and {percent(levels.share)} of the "
        "steps are on the upper one: that is no accident but another kind of batch, and to clip it would pull training "
        f"to the other kind; the threshold, {threshold:g}, lies above both"
    )


def _runaway(shape: Shape, threshold: float) -> str:
    small = quantile(shape.recent, SMALL)
    of_norms = math.isclose(threshold, small / 4, rel_tol=0.01)
    what = f"the norm that {percent(SMALL)} of those before lie below" if of_norms else "the threshold that was on"
    return (
        f"the norms were about {_middle(shape)} until one of them, after {shape.runaway} steps, was more than five "
        "times as large, and they never came back: steps so long may break the training at this learning rate. "
        f"{threshold:g}, a quarter of {what}, clips nearly every step: it is a second learning rate; lowering the "
        "learning rate itself is the other cure. Ask again after the next run"
    )


def _constant(shape: Shape, threshold: float) -> str:
    return f"every norm is {_middle(shape)}: nothing tells an ordinary step from a bad one, so no threshold would help"


REASONS = {
    "steady": _steady,
    "spiky": _steady,
    "drifting": _drifting,
    "wide": _wide,
    "two levels": _two_levels,
    "runaway": _runaway,
    "constant": _constant,
}


def caveats_of(shape: Shape, numbers: Numbers, verdict: Verdict, threshold: float) -> Iterator[str]:
    """What to mind."""
    yield f"{verdict.sentence.removesuffix('.')}{_and_then(shape, numbers, threshold)}"
    if numbers.global_threshold and numbers.thresholds is not None and shape.kind != "drifting":
        least, largest = numbers.thresholds
        if largest > MOVED * least:
            yield (
                f"the threshold of this run moved between {short(least)} and {short(largest)}, with a median of "
                f"{short(numbers.threshold)}: a number in its place follows nothing, so compare the two first"
            )
    if numbers.own_code:
        yield (
            "these are the norms before the script's own code, which a rule that is attached would not see: take that "
            "code away when you attach one"
        )
    if numbers.nonfinite > MANY * numbers.steps:
        yield (
            f"{percent(numbers.nonfinite / numbers.steps)} of the steps are not finite, which no threshold cures: "
            'lower the learning rate, or leave them out with on_nonfinite="skip"'
        )


def _and_then(shape: Shape, numbers: Numbers, threshold: float) -> str:
    """What goes with a higher threshold than that of a run whose ordinary steps were clipped, or with a first one."""
    if not numbers.clipped:
        return "; ask again after a run that is clipped, for clipping changes the norms that follow"
    often = numbers.clip_rate >= OFTEN and not numbers.normalised
    if shape.runaway is not None or not often or not threshold > numbers.threshold:
        return ""
    return (
        f"; with {threshold:g} instead, steps become longer: multiply the learning rate by {numbers.kept:.2g} with it "
        f"({percent(numbers.kept)} of the gradient was kept), or leave both if training goes well"
    )


def _middle(shape: Shape) -> str:
    return f"{quantile(shape.recent, 0.5):.3g}"
