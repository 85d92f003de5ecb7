"""Findings as a person reads them."""

from __future__ import annotations

from gradclip.doctor.diagnosis import Finding


def finding_as_text(finding: Finding) -> str:
    """A finding in three lines."""
    often = f"in {finding.steps} of {finding.of} steps, first in step {finding.since}"
    place = f"{finding.where}: " if finding.where else ""
    return f"{place}{finding.sentence}\n  when  {often}\n  cure  {finding.cure}"
