"""Which of several runs ended with the lowest loss, and whether that is more than noise."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from gradclip.advice.losses import FEWEST, apart, end_of
from gradclip.report.summary import Summary
from gradclip.report.verdict import BAD, GOOD, LOOK, Verdict
from gradclip.report.words import short

MOST_NAMED = 3


def compared(summaries: Sequence[Summary]) -> Verdict | None:
    """What the losses say of several runs together; None of one run, and where they are not losses of one kind.

    That is so where a run has none, or two are of the optimizers of one script, which have a net each.
    """
    if len(summaries) < 2 or not all(one.numbers.losses for one in summaries) or one_holds_another(summaries):
        return None
    finite = sorted((one for one in summaries if math.isfinite(ended(one))), key=ended)
    if not finite:
        return Verdict(
            "none finite", BAD, "No run has a finite loss over its last tenth, so none of them trained better."
        )
    if min(len(end_of(one.run)) for one in finite) < FEWEST:
        found = listed(f"{short(ended(one))} ({one.name})" for one in finite)
        few = "The runs are too short to tell a difference in the training loss from noise: over the last tenth it is"
        return Verdict("few", LOOK, f"{few} {found}.")
    return ranked(summaries, finite)


def ranked(summaries: Sequence[Summary], finite: Sequence[Summary]) -> Verdict:
    """The verdict on runs that end at finite losses, sorted by these, among all."""
    worse = [one for one in finite if apart(end_of(finite[0].run), end_of(one.run))]
    alike = [one for one in finite if one not in worse]
    others = below(finite[0], worse)
    broken = [one.name for one in summaries if not math.isfinite(ended(one))]
    rest = f", {others}" if others else ""
    rest += f", where the loss of {listed(broken)} is not finite" if broken else ""
    begin = f"By the training loss, of one seed each{after(summaries)}, "
    if len(alike) == 1:
        best = f"{alike[0].name} ended lowest: at {short(ended(alike[0]))} over its last tenth"
        return Verdict("lowest", GOOD, f"{begin}{best}{rest}.")
    if rest:
        best = listed(f"{one.name} ({short(ended(one))})" for one in alike)
        tie = f"{best} ended lowest over the last tenth, with no difference to speak of"
        return Verdict("lowest", GOOD, f"{begin}{tie}{rest}.")
    all_ends = listed(f"{one.name} {short(ended(one))}" for one in alike)
    none = f"there is no difference to speak of at the end: {all_ends} over the last tenth"
    return Verdict("alike", LOOK, f"{begin}{none}.")


def one_holds_another(summaries: Sequence[Summary]) -> bool:
    """Whether a run lies in the folder of another: a further optimizer of its script."""
    folders = [one.run.path.resolve() for one in summaries]
    return any(folder in other.parents for folder in folders for other in folders)


def ended(summary: Summary) -> float:
    """The mean loss at the end of a run that has losses."""
    found = summary.numbers.final_loss
    return math.inf if found is None else found


def after(summaries: Sequence[Summary]) -> str:
    """How many steps the runs have, where not equally many."""
    numbers = [one.numbers.losses for one in summaries]
    return "" if len(set(numbers)) == 1 else f" and after {listed(f'{number:,}' for number in numbers)} steps"


def below(best: Summary, others: Sequence[Summary]) -> str:
    """How far the best run lies below the others."""
    named = [f"{short(ended(one) - ended(best))} below {one.name}" for one in others[:MOST_NAMED]]
    more = len(others) - len(named)
    if more:
        named.append(f"lower than {more} {'other' if more == 1 else 'others'}")
    return listed(named)


def listed(words: Iterable[str]) -> str:
    """The words with commas, and `and` before the last.

    >>> listed(["a", "b", "c"])
    'a, b and c'
    """
    known = list(words)
    return " and ".join(filter(None, (", ".join(known[:-1]), known[-1]))) if known else ""
