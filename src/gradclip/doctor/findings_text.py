"""Findings as a person reads them."""

from __future__ import annotations

from collections.abc import Sequence

from gradclip.doctor.diagnosis import Finding


def findings_as_text(findings: Sequence[Finding]) -> str:
    """The findings, each with its place, since when, and the cure."""
    if not findings:
        return "nothing is wrong with the clipping"
    return "\n\n".join(map(finding_as_text, findings))


def finding_as_text(finding: Finding) -> str:
    """A finding in three lines."""
    often = f"in {finding.steps} of {finding.of} steps, first in step {finding.since}"
    place = f"{finding.where}: " if finding.where else ""
    return f"{place}{finding.sentence}\n  when  {often}\n  cure  {finding.cure}"
