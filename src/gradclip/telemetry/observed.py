"""From a result to an event: the one place where telemetry reads numbers."""

from __future__ import annotations

import math

from gradclip.result import Result
from gradclip.telemetry.event import MOST_OFFENDERS, Event


def event_of(result: Result, rule: str, time: float, tensors: bool = False) -> Event:
    """The event of `result`. A clip that refused before it measured knows no norm, only which tensors are broken."""
    refused = bool(result.looked_up) and not result.parts
    return Event(
        step=int(result.step),
        rule=rule,
        engine=result.engine,
        norm_before=math.nan if refused else float(result.norm_before),
        norm_after=float(result.norm_after),
        threshold=float(result.threshold),
        coefficient=float(result.coefficient),
        clipped=result.clipped,
        skipped=result.skipped,
        nonfinite=len(result.offenders) if refused else result.nonfinite,
        offenders=tuple(result.offenders[:MOST_OFFENDERS]),
        time=time,
        tensors=result.tensors if tensors else None,
    )
