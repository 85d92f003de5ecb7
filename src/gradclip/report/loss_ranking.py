"""Which of several runs ended with the lowest loss, and whether that is more than noise."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from gradclip.errors import shown
from gradclip.report.summary import Summary
from gradclip.verdict.divergence import diverged
from gradclip.verdict.formatting import short
from gradclip.verdict.judge import BAD, GOOD, LOOK, Verdict
from gradclip.verdict.losses import FEWEST, differ, end_of
from gradclip.watch.journal import SCRIPT

MOST_NAMED = 3


def compare_losses(summaries: Sequence[Summary]) -> Verdict | None:
    """What the losses say of several runs together; None of one run, and where they are not losses of one kind.

    That is so where a run has none, or two are of the optimizers of one script, which have a net each.

    >>> from gradclip.report import summarise
    >>> from gradclip.telemetry import Event, Run
    >>> runs = [Run(Event(s, "", "cpu", 5.0, 5.0, 9.0, 1.0, False, loss=x) for s in range(300)) for x in (1.0, 2.0)]
    >>> compare_losses(summarise(runs)).kind
    'lowest'
    """
    if not isinstance(summaries, Sequence) or not all(isinstance(summary, Summary) for summary in summaries):
        raise TypeError(f"what is compared is a list of summaries, got {shown(summaries)}: write summarise(runs)")
    if len(summaries) < 2 or not all(summary.numbers.losses for summary in summaries) or nested(summaries):
        return None
    if other := other_scripts(summaries):
        return Verdict("other scripts", LOOK, other)
    trained = [one for one in summaries if math.isfinite(final_loss_of(one)) and diverged(one.run) is None]
    finite = sorted(trained, key=final_loss_of)
    if not finite and any(math.isfinite(final_loss_of(summary)) for summary in summaries):
        return Verdict("none trained", BAD, f"Every run broke: {'; '.join(map(breakdown, summaries))}.")
    if not finite:
        return Verdict(
            "none finite", BAD, "No run has a finite loss over its last tenth, so none of them trained better."
        )
    broken = [summary for summary in summaries if summary not in finite]
    if min(len(end_of(summary.run)) for summary in finite) < FEWEST:
        if broken:
            ends = enumeration(f"{summary.name} {short(final_loss_of(summary))}" for summary in finite)
            broke = "; ".join(map(breakdown, broken))
            return Verdict("broken", LOOK, f"By the training loss, {broke}; ended at a finite loss: {ends}.")
        found = enumeration(f"{short(final_loss_of(summary))} ({summary.name})" for summary in finite)
        few = "The runs are too short to tell a difference in the training loss from noise: over the last tenth it is"
        return Verdict("few", LOOK, f"{few} {found}.")
    return ranked(summaries, finite)


def other_scripts(summaries: Sequence[Summary]) -> str:
    """Why runs of different scripts, or of different versions of one, are not compared; nothing where they are of one.

    A run of which that is not known, as telemetry records it, is compared: its user knows.
    """
    scripts = [summary.run.about.get(SCRIPT, {}) for summary in summaries]
    known = [script for script in scripts if script.get("hash")]
    if len({script["hash"] for script in known}) < 2:
        return ""
    names = list(dict.fromkeys(Path(script["arguments"][0]).name for script in known if script.get("arguments")))
    what = f"different scripts ({enumeration(names)})" if len(names) > 1 else f"different versions of {names[0]}"
    return f"The losses are not compared, for these are runs of {what}."


def ranked(summaries: Sequence[Summary], finite: Sequence[Summary]) -> Verdict:
    """The verdict on runs that end at finite losses, sorted by these, among all."""
    worse = [summary for summary in finite if differ(end_of(finite[0].run), end_of(summary.run))]
    equals = [summary for summary in finite if summary not in worse]
    others = margins(finite[0], worse)
    lost = [summary for summary in summaries if not math.isfinite(final_loss_of(summary))]
    rose = [summary for summary in summaries if summary not in finite and summary not in lost]
    rest = f", {others}" if others else ""
    rest += f", where the loss of {enumeration(one.name for one in lost)} is not finite" if lost else ""
    rest += f", where {'; '.join(map(breakdown, rose))}" if rose else ""
    begin = f"By the training loss, of one seed each{step_counts(summaries)}, "
    if len(equals) == 1:
        best = f"{equals[0].name} ended lowest: at {short(final_loss_of(equals[0]))} over its last tenth"
        return Verdict("lowest", GOOD, f"{begin}{best}{rest}.")
    if rest:
        best = enumeration(f"{summary.name} ({short(final_loss_of(summary))})" for summary in equals)
        tie = f"{best} ended lowest over the last tenth, with no difference to speak of"
        return Verdict("lowest", GOOD, f"{begin}{tie}{rest}.")
    all_ends = enumeration(f"{summary.name} {short(final_loss_of(summary))}" for summary in equals)
    none = f"there is no difference to speak of at the end: {all_ends} over the last tenth"
    return Verdict("no difference", LOOK, f"{begin}{none}.")


def breakdown(summary: Summary) -> str:
    """What became of a run that did not train."""
    final = final_loss_of(summary)
    if not math.isfinite(final):
        return f"the loss of {summary.name} is not finite"
    return f"{summary.name} diverged to {short(final)}"


def nested(summaries: Sequence[Summary]) -> bool:
    """Whether a run lies in the folder of another: a further optimizer of its script."""
    folders = [summary.run.path.resolve() for summary in summaries]
    return any(folder in other.parents for folder in folders for other in folders)


def final_loss_of(summary: Summary) -> float:
    """The mean loss at the end of a run that has losses."""
    found = summary.numbers.final_loss
    return math.inf if found is None else found


def step_counts(summaries: Sequence[Summary]) -> str:
    """How many steps the runs have, where not equally many."""
    numbers = [summary.numbers.losses for summary in summaries]
    return "" if len(set(numbers)) == 1 else f" and after {enumeration(f'{number:,}' for number in numbers)} steps"


def margins(best: Summary, others: Sequence[Summary]) -> str:
    """How far the best run lies below the others."""
    named = [
        f"{short(final_loss_of(summary) - final_loss_of(best))} below {summary.name}" for summary in others[:MOST_NAMED]
    ]
    more = len(others) - len(named)
    if more:
        named.append(f"lower than {more} {'other' if more == 1 else 'others'}")
    return enumeration(named)


def enumeration(words: Iterable[str]) -> str:
    """The words with commas, and `and` before the last.

    >>> enumeration(["a", "b", "c"])
    'a, b and c'
    """
    known = list(words)
    return " and ".join(filter(None, (", ".join(known[:-1]), known[-1]))) if known else ""
