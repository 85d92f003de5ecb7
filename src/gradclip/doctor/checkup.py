"""What is wrong with the runs of a script, and the verdict on each: what `watch` and `doctor` say."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Sequence
from typing import NamedTuple

from gradclip.doctor.accepted import accepted_with
from gradclip.doctor.diagnosis import Finding, findings_in, is_mistake, runs_in
from gradclip.doctor.findings_text import finding_as_text
from gradclip.doctor.problems import DIVERGED
from gradclip.telemetry.runs import Run
from gradclip.verdict.judge import BAD, Verdict, verdict_on

OF_FINDINGS = ("mistaken", "non-finite")
"""The kinds of verdicts that say in short what the findings say."""


class CheckedRun(NamedTuple):
    """The run of one optimizer, what is wrong with its clipping, and the verdict on it."""

    run: Run
    findings: list[Finding]
    verdict: Verdict
    accepted: frozenset[str] = frozenset()

    @property
    def is_sick(self) -> bool:
        """Whether something is wrong; that there is too little to judge by is not."""
        wrong = any(not finding.accepted for finding in self.findings)
        passed = self.accepted | {"empty", *OF_FINDINGS}
        return wrong or (self.verdict.level == BAD and self.verdict.kind not in passed)


def checked_runs(folder: str | os.PathLike[str], accept: Collection[str] = ()) -> list[CheckedRun]:
    """The runs in `folder`, one for each optimizer, checked; `accept` names what is meant as it is.

    Raises `FileNotFoundError` where there is no run.
    """
    runs, accepted = runs_in(folder), accepted_with(accept)
    found = []
    for run, findings in zip(runs, findings_in(runs, accepted), strict=True):
        found.append(CheckedRun(run, findings, verdict_on(run, sum(map(is_mistake, findings))), accepted))
    return found


def checkup_as_text(checked: Sequence[CheckedRun]) -> str:
    """What is wrong, each thing with its place and cure, and the verdicts on the runs of which nothing is."""
    texts = Counter(text for one in checked for text in texts_of(one, len(checked) > 1))
    return "\n\n".join(text if times == 1 else f"{text}\n  so in {times} runs" for text, times in texts.items())


def texts_of(checked: CheckedRun, named: bool) -> list[str]:
    """The findings of a run, or its verdict, with the name of its optimizer where there are several."""
    found = list(map(finding_as_text, checked.findings))
    if found and checked.verdict.kind in OF_FINDINGS:
        return found
    optimizer = f"{checked.run.optimizer}: " if named else ""
    meant = ""
    if checked.verdict.kind == DIVERGED:
        known = "it is accepted" if DIVERGED in checked.accepted else f"gradclip doctor --accept {DIVERGED}"
        meant = f"\n  or    if the loss is meant to rise: {known}"
    return [*found, f"{optimizer}{checked.verdict.sentence}{meant}"]
