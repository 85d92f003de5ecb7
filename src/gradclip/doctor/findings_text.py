"""Findings as a person reads them."""

from __future__ import annotations

from gradclip.doctor.diagnosis import Finding


def finding_as_text(finding: Finding) -> str:
    """A finding in three lines."""
    often = f"in {finding.steps} of {finding.of} steps, first in step {finding.since}"
    place = f"{finding.where}: " if finding.where else "the script "
    what = f"{place}{finding.sentence}\n  when  {often}"
    if finding.accepted:
        return f"{what}\n  meant as it is: {finding.problem} is accepted"
    meant = f"if it is meant as it is: gradclip doctor --accept {finding.problem}"
    return f"{what}\n  cure  {finding.cure}\n  or    {meant}"
