"""What is suggested, in the words that a terminal shows."""

from __future__ import annotations

import math
import shlex
import textwrap
from statistics import fmean

from gradclip.advice.suggestion import Suggestion
from gradclip.advice.trainings import Training, TrialsResult
from gradclip.verdict.formatting import short

WIDTH = 100


def trials_as_text(found: TrialsResult) -> str:
    """What trying has found, for a terminal."""
    best, as_it_is = found.best, found.as_it_is
    if found.broken:
        why = "no training ended well"
        if not any(training.exit for training in found.trainings) and found.judge.metric is not None:
            why = f"under no threshold {found.judge} was a finite number at the end"
        return "\n".join([f"no proposal: {why}", *labelled("see it", f"{as_it_is.path}.log")])
    paths = " ".join(dict.fromkeys(shlex.quote(str(training.path)) for training in (as_it_is, best)))
    see = labelled("see it", f"gradclip report {paths}")
    if found.unclear:
        by = f", which gives {', '.join(found.offered)}" if found.offered else ""
        judge = f"by a number of the script's{by}: --metric NAME, with --maximize where higher is better"
        return "\n".join([*wrapped(f"no proposal: {found.unclear}"), *labelled("judge it", judge), *see])
    lines = [found.expression or "leave it as it is: no threshold that was tried trains better by more than noise"]
    if found.expression is not None:
        lines += labelled("in PyTorch", f"gradclip.attach(optimizer, gradclip.{found.expression})")
    lines += labelled("judged by", judged_by(found))
    if found.offered:
        lines += labelled("mind", f"the script gives {', '.join(found.offered)}, too: --metric NAME judges by that")
    elif found.judge.metric is None:
        lines += labelled("mind", "this is the loss that was trained on: see that your validation metric agrees")
    if found.unjudged:
        of = f"{found.unjudged} of {len(found.trainings)} trainings"
        lines += labelled("mind", f"{of} gave no {found.judge}, and were not judged")
    if found.optimizers > 1:
        lines += labelled("mind", f"each of {found.optimizers} optimizers got the rule by itself")
    if found.at_edge and not found.leave:
        lines += labelled("mind", f"the best is the {found.at_edge} threshold of all: look further with more --trials")
    if len({training.steps for training in (as_it_is, best)}) > 1:
        lines += labelled("mind", f"these trainings have {best.steps} and {as_it_is.steps} steps")
    return "\n".join([*lines, *see])


def judged_by(found: TrialsResult) -> str:
    """By what, of how many seeds, and the numbers themselves."""
    seeds = len(found.seeds)
    of = "of one seed" if seeds == 1 else f"over {seeds} seeds"
    metric = found.judge.metric
    way = "" if metric is None else " (higher is better)" if metric.maximize else " (lower is better)"
    best, before = found.under(found.best.threshold), found.under(None)
    under = f" under {found.best.rule}" if found.leave and found.best.rule else ""
    numbers = f"{value_of(best)} at the end{under}, {value_of(before)} as it is"
    if metric is None:
        quartiles = [training[0].quartiles for training in (best, before)]
        if all(middle is not None for _, middle in quartiles):
            numbers += "; its median {1:.5g} and {3:.5g}, its lower quartile {0:.5g} and {2:.5g}".format(
                *quartiles[0], *quartiles[1]
            )
    firm = ""
    if not found.leave and seeds > 1:
        firm = f"; better with each of the {seeds} seeds"
    elif not found.leave and len(found.best.judged.ends) == 1:
        firm = "; by one number each, whose noise is not known"
    return f"{found.judge} {of}{way}: {numbers}{firm}"


def value_of(trainings: list[Training]) -> str:
    """What the trainings with each seed ended at, together."""
    values = [training.judged.value for training in trainings]
    return f"{fmean(values):.5g}" if all(map(math.isfinite, values)) else "inf"


def suggestion_as_text(found: Suggestion) -> str:
    """A suggestion for a terminal: what to paste, then the reasons."""
    lines = ["leave it as it is if training goes well"] if found.leave else []
    if found.expression is not None:
        lines += [f"otherwise {found.expression}" if found.leave else found.expression]
        lines += labelled("in PyTorch", f"gradclip.attach(optimizer, gradclip.{found.expression})")
        if found.now is not None:
            lines += labelled("now", f"the threshold is {short(found.now)}")
        part = f", {found.clip_rate:.1%} of the {found.warm} {part_of(found)}" if found.warm < found.steps else ""
        lines += labelled("clip rate", f"{found.whole_rate:.1%} of all {found.steps} steps{part}")
        if found.low is not None:
            lines += labelled("range", f"{found.low:g} to {found.high:g} for the threshold, with a confidence of 90 %")
    elif not found.leave:
        lines += ["no proposal"]
    lines += labelled("why", found.reason)
    return "\n".join(lines + [line for caveat in found.caveats for line in labelled("mind", caveat)])


def part_of(found: Suggestion) -> str:
    """Which steps a suggestion is taken from, where not from all."""
    return f"after the first {found.warmup}" if found.warmup else "before the norms ran away"


def labelled(name: str, text: str) -> list[str]:
    """A line with a name in front, and as many more as the text needs."""
    return textwrap.wrap(text, WIDTH, initial_indent=f"  {name:12}", subsequent_indent=" " * 14, break_on_hyphens=False)


def wrapped(text: str) -> list[str]:
    """A sentence in lines."""
    return textwrap.wrap(text, WIDTH, break_on_hyphens=False)
