"""From a result to an event: the one place where telemetry reads numbers."""

from __future__ import annotations

import math

from gradclip.step.result import Result
from gradclip.telemetry.event import MOST_OFFENDERS, Event


def event_of(result: Result, rule: str, time: float, tensors: bool = False, left_out: int = 0) -> Event:
    """The event of `result`, before which a loss scaler has left out so many steps.

    A clip that refused before it measured, and a step that was left out, know no norm, only which tensors are broken.
    """
    refused = result.skipped and not result.parts
    return Event(
        step=int(result.step) + left_out,
        rule=rule,
        engine=result.engine,
        norm_before=math.nan if refused else float(result.norm_before),
        norm_after=float(result.norm_after),
        threshold=float(result.threshold),
        coefficient=float(result.coefficient),
        clipped=result.clipped,
        skipped=result.skipped,
        nonfinite=max(1, len(result.offenders)) if refused else result.nonfinite,
        offenders=tuple(result.offenders[:MOST_OFFENDERS]),
        time=time,
        tensors=result.tensors if tensors and not refused else None,
        norm=type(result.norm).__name__,
        loss=None if result.loss is None else float(result.to_host(result.loss)[0]),
    )
