"""The verdict on a run in one sentence, the same in every command: what its clipping did, and nothing unseen.

Mistakes in the script come first, for they make the norms mean something else; then what breaks a training; then
whether there are enough steps; then how often the threshold acted, and on what. Whether clipping helps or harms, a run
alone cannot say: `gradclip report` of several compares their losses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from gradclip.telemetry.event import Event
from gradclip.telemetry.spikes import FEW
from gradclip.verdict.divergence import FAR, diverged
from gradclip.verdict.formatting import count, percent, short, times
from gradclip.verdict.numbers import Numbers, numbers_of

ALWAYS, OFTEN = 0.95, 0.5
"""Shares of clipped steps. From the first on nearly every step comes out with the same length, whatever the gradient
was; from the second on ordinary steps are clipped, and not only those that stand out."""

EXPLODED = 1e3
"""Norms that grew so many times before one was not finite: the training broke, and no single bad step broke it."""

RARELY = 0.05
"""Up to this share of the clipped steps may come after the start of a training that is guarded at its start."""

ROSE = 2.0
"""A loss that ends at so many times its beginning has risen."""

GOOD, LOOK, BAD = "good", "look", "bad"


@dataclass(frozen=True)
class Verdict:
    """The kind of run, how it is to be taken (good, look, bad), and the sentence that says it with its numbers."""

    kind: str
    level: str
    sentence: str


def verdict_on(run: Sequence[Event], mistakes: int = 0) -> Verdict:
    """The verdict on the events of a run, in whose script so many `mistakes` were found."""
    return verdict_of(numbers_of(run), diverged(run), mistakes)


def verdict_of(numbers: Numbers, diverged: str | None = None, mistakes: int = 0) -> Verdict:
    """The first of these that is true of a run decides.

    `diverged` is the sentence that says that training diverged, if it did, and `mistakes` counts those of the script.
    """
    if numbers.steps == 0:
        return Verdict("empty", BAD, "No step was recorded, so there is nothing to say yet.")
    if mistakes:
        return mistaken(mistakes)
    if numbers.finite == 0:
        steps = "The only step" if numbers.steps == 1 else f"Every one of the {numbers.steps:,} steps"
        return Verdict("broken", BAD, f"{steps} has NaN or infinity in its gradient: no clipping can save that.")
    if diverged and (not numbers.escaped or numbers.grew > EXPLODED):
        return Verdict("diverged", BAD, f"{diverged.removesuffix('.')}; {in_small(did(numbers))}{likelier(numbers)}.")
    if numbers.escaped:
        return broken(numbers)
    if numbers.largest == 0:
        return Verdict("zero", BAD, "Every gradient is zero: either nothing is trained, or the norm is read too late.")
    if numbers.finite < FEW:
        found = count(numbers.finite, "step")
        few = f"Only {found} with a finite norm: too few to judge the clipping by, {FEW} are needed."
        return Verdict("few", LOOK, few)
    if numbers.thresholds is None and not numbers.clipped:
        return measured(numbers)
    return acting(numbers)


def mistaken(mistakes: int) -> Verdict:
    """The script clips in a wrong way."""
    them = "it is" if mistakes == 1 else "they are"
    return Verdict(
        "mistaken",
        BAD,
        f"The clipping has {count(mistakes, 'mistake')}, which gradclip doctor names with the line and the cure: until "
        f"{them} mended, these norms say nothing of a threshold.",
    )


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
    nothing = did(numbers)
    if numbers.unseen:
        may = f"{' and '.join(numbers.unseen)} may clip, which does not show here"
        return Verdict("unseen", LOOK, f"{nothing} as far as can be seen, but {may}.")
    if numbers.spikes:
        return Verdict("measured, spiky", LOOK, f"{nothing}, and {spikes(numbers)}, went through: clip this run.")
    return Verdict(
        "measured, calm",
        GOOD,
        f"{nothing}, and nothing stood out ({most(numbers)}): clipping would have had little to do.",
    )


def acting(numbers: Numbers) -> Verdict:
    """There was a threshold: how often did it act, and on what?"""
    if not numbers.clipped:
        return never(numbers)
    risen = risen_from(numbers)
    if numbers.own_code and risen is None:
        return by_own_code(numbers)
    if numbers.clip_rate > OFTEN and risen is not None:
        rose = f"the loss rose from {short(risen)} to {short(numbers.final_loss or 0.0)} all the same"
        return Verdict("rising", LOOK, f"{did(numbers)}, and {rose}{likelier(numbers)}.")
    if numbers.clip_rate >= ALWAYS:
        return always(numbers)
    if numbers.clip_rate > OFTEN:
        why = f"it shortens ordinary steps, not only those that stand out (median norm: {short(numbers.median)})"
        return Verdict("often", LOOK, f"{did(numbers)}: {under(numbers)}{why}.")
    return caught(numbers)


def by_own_code(numbers: Numbers) -> Verdict:
    """Code between backward and the step made gradients smaller; what its threshold is, nobody can see."""
    return Verdict(
        "own code",
        LOOK,
        f"Code of the script's own made the gradients smaller between backward() and the step, on "
        f"{numbers.clipped:,} of {count(numbers.finite, 'step')} ({percent(numbers.clip_rate)}): the norms here are "
        "those before it, and its threshold is not known.",
    )


def never(numbers: Numbers) -> Verdict:
    """The threshold was never reached."""
    if numbers.spikes:
        found = f"and {spikes(numbers)}, went through below the threshold{at(numbers)}"
        return Verdict("never, spiky", LOOK, f"{did(numbers)}, {found}.")
    tenth = f"; {short(numbers.p90)} would have clipped 1 step in 10" if at(numbers) else ""
    return Verdict(
        "never",
        LOOK,
        f"{did(numbers)}: no norm (largest {short(numbers.largest)}) reached the threshold{at(numbers)}, so training "
        f"would have been the same without it{tenth}.",
    )


def always(numbers: Numbers) -> Verdict:
    """Nearly every step came out with the same length."""
    what = "is a hidden learning rate, for nearly every step comes out with its length"
    if numbers.normalised:
        what = (
            "makes every batch count alike; a constant factor on all gradients does not change the length of this "
            "optimizer's steps, so it is no learning rate"
        )
    before = f"(median norm before: {short(numbers.median)})"
    if numbers.by_value:
        what = "cuts elements of nearly every gradient, and so turns it"
        before = f"(median of the largest magnitudes: {short(numbers.median)})"
    return Verdict("always", LOOK, f"{did(numbers)}: the threshold{at(numbers)} {what} {before}.")


def caught(numbers: Numbers) -> Verdict:
    """The rule leaves most steps alone: did it act on those that stand out?"""
    number, top = count(numbers.spikes, "spike"), f"up to {times(numbers.prominence)} times the usual norm"
    if numbers.caught < numbers.spikes:
        return Verdict(
            "misses", LOOK, f"{did(numbers)}, on {numbers.caught:,} of {number} ({top}): the rest went through."
        )
    if numbers.acted_late <= RARELY * numbers.clipped:
        return start(numbers)
    if not numbers.spikes:
        return Verdict(
            "trims",
            LOOK,
            f"{did(numbers)}, none of which stood out ({most(numbers)}): it trims ordinary steps.",
        )
    which = {1: "the only spike", 2: "both spikes"}.get(numbers.spikes, f"all {number}")
    return Verdict("guard", GOOD, f"{did(numbers)}, {which} ({top}) among them: it is a guard.")


def likelier(numbers: Numbers) -> str:
    """What broke a training whose steps were nearly all of the length of the threshold."""
    return ": the learning rate is a likelier cause than the threshold" if numbers.clip_rate > OFTEN else ""


def start(numbers: Numbers) -> Verdict:
    """The rule acts while the norms of the start have not come down yet, and hardly later."""
    early = numbers.clipped - numbers.acted_late
    which = f"nearly all ({early:,}) of them" if numbers.acted_late else "all of them"
    where = f"{which} in the first {numbers.warm - numbers.first:,}, where the training starts"
    return Verdict("start", GOOD, f"{acted_on(numbers)}, {where}: it is a guard.")


def risen_from(numbers: Numbers) -> float | None:
    """The loss from which it rose to twice the mean of the beginning, or to ten times the very first; None if not.

    A beginning that breaks at once has a mean that hides it. One that may be negative has no such measure.
    """
    first, began, final = numbers.first_loss, numbers.began, numbers.final_loss
    if first is None or began is None or final is None:
        return None
    if 0.0 < ROSE * first < final:
        return first
    return began if 0.0 < FAR * began < final else None


def did(numbers: Numbers) -> str:
    """How many steps were clipped, and where, as the beginning of a sentence."""
    if not numbers.clipped and numbers.thresholds is None:
        return f"Nothing was clipped in {count(numbers.steps, 'step')}"
    if not numbers.clipped:
        return f"Clipping never acted in {count(numbers.steps, 'step')}"
    return f"{acted_on(numbers)}{when(numbers)}"


def acted_on(numbers: Numbers) -> str:
    kind = "step" if numbers.finite == numbers.steps else "finite step"
    share = f"{numbers.clipped:,} of {count(numbers.finite, kind)} ({percent(numbers.clip_rate)})"
    return f"Clipping acted on {share}"


def when(numbers: Numbers) -> str:
    """Where the steps that were clipped lie, if they lie in a quarter at one end."""
    length = numbers.last - numbers.first + 1
    begun, ended = numbers.acted_to - numbers.first + 1, numbers.last - numbers.acted_from + 1
    if numbers.clipped > 1 and 4 * begun <= length:
        return f", all in the first {begun:,}"
    return f", all in the last {ended:,}" if numbers.clipped > 1 and 4 * ended <= length else ""


def spikes(numbers: Numbers) -> str:
    return f"{count(numbers.spikes, 'spike')}, up to {times(numbers.prominence)} times the usual norm"


def most(numbers: Numbers) -> str:
    """How far the largest norm stands out, and of which steps."""
    after = ", after the start" if numbers.warm > numbers.first else ""
    if (ratio := times(numbers.prominence)) == "1":
        return f"all of about the same norm{after}"
    return f"at most {ratio} times the usual norm{after}"


def in_small(sentence: str) -> str:
    """The sentence as it goes on another."""
    return sentence[:1].lower() + sentence[1:]


def under(numbers: Numbers) -> str:
    """With which threshold, or which thresholds where they differ, as the beginning of a clause; nothing if unknown."""
    if one := at(numbers):
        return f"with the threshold{one} "
    if numbers.thresholds is None or numbers.thresholds[0] == numbers.thresholds[1]:
        return ""
    return "with thresholds from {} to {} ".format(*map(short, numbers.thresholds))


def at(numbers: Numbers) -> str:
    """The threshold in numbers, where it is one for all tensors together and did not move by more than a tenth."""
    if numbers.thresholds is None or not numbers.global_threshold:
        return ""
    low, high = numbers.thresholds
    return f" of {short(high)}" if math.isclose(low, high, rel_tol=0.1) else ""
