"""What a suggestion says: the reason for it, and what to mind."""

from __future__ import annotations

import math
from collections.abc import Iterator

from gradclip.advice.recorded_clipping import ALWAYS, OFTEN, RecordedClipping
from gradclip.advice.shape import WIDE, Shape, quantile

MANY = 0.02


def reason_of(shape: Shape, threshold: float) -> str:
    """Why this threshold, in a sentence."""
    return REASONS[shape.kind](shape, threshold)


def _steady(shape: Shape, threshold: float) -> str:
    rare = f"; {percent(shape.spikes)} are spikes of more than three times that" if shape.kind == "spiky" else ""
    return (
        f"ordinary norms lie around {_middle(shape)} and 95 % of the steps below {threshold:g}{rare}: a threshold "
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
    return (
        f"the norms were about {_middle(shape)} until one of them, after {shape.runaway} steps, was more than five "
        "times as large, and they never came back: steps so long may break the training at this learning rate. "
        f"{threshold:g}, a quarter of the small norms before (or of the threshold that was on), clips every step: it "
        "is a second learning rate; lowering the learning rate itself is the other cure. Ask again after the next run"
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


def caveats_of(shape: Shape, record: RecordedClipping, threshold: float) -> Iterator[str]:
    """What to mind."""
    yield _on_recorded_clipping(shape, record, threshold)
    if record.broken > MANY:
        yield (
            f"{percent(record.broken)} of the steps are not finite, which no threshold cures: lower the learning rate, "
            'or leave them out with on_nonfinite="skip"'
        )


def _on_recorded_clipping(shape: Shape, record: RecordedClipping, threshold: float) -> str:
    """What the clipping of the run did, and what that means."""
    if record.rate == 0.0 and math.isinf(record.threshold):
        return "this run was not clipped; ask again after one that is, for clipping changes the norms that follow"
    if record.rate == 0.0:
        return (
            f"no step of this run was clipped: its threshold, {record.threshold:.3g}, was never reached and did nothing"
        )
    if record.rate >= OFTEN:
        return f"{_hidden_rate(record)}{_longer(shape, record, threshold)}"
    return f"{percent(record.rate)} of the steps of this run were clipped, and clipping changes the norms that follow"


def _hidden_rate(record: RecordedClipping) -> str:
    """What it means that ordinary steps are clipped."""
    who = (
        "every step of this run was" if record.rate == 1.0 else f"{percent(record.rate)} of the steps of this run were"
    )
    limit = f", {record.threshold:.3g}," if math.isfinite(record.threshold) else ""
    if record.normalised:
        return (
            f"{who} clipped: its threshold{limit} makes every gradient as long as the others, and to this optimizer, "
            "whose step does not grow with the gradient, every batch then counts alike"
        )
    why = ", for nearly every update has the length that it gives" if record.rate >= ALWAYS else ""
    return (
        f"{who} clipped: its threshold{limit} is a hidden learning rate{why}. {percent(record.kept)} of the gradient "
        "was kept"
    )


def _longer(shape: Shape, record: RecordedClipping, threshold: float) -> str:
    """What goes with a higher threshold than that of a run whose ordinary steps were clipped."""
    if shape.runaway is not None or record.normalised or not threshold > record.threshold:
        return ""
    return (
        f"; with {threshold:g} instead, steps become longer: multiply the learning rate by {record.kept:.2g} with it, "
        "or leave both if training goes well"
    )


def _middle(shape: Shape) -> str:
    return f"{quantile(shape.recent, 0.5):.3g}"


def percent(share: float) -> str:
    """A share as people write it.

    >>> percent(0.052), percent(0.0012), percent(1.0)
    ('5.2 %', '0.12 %', '100 %')
    """
    return f"{100.0 * share:.{3 if share > 0.995 else 2}g} %"
