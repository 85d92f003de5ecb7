"""From a result to an event: the one place where telemetry reads numbers."""

from __future__ import annotations

import math
from dataclasses import replace

from gradclip.rules.rule import AnyRule, rules_in
from gradclip.rules.scope import Element
from gradclip.step.result import Result
from gradclip.telemetry.event import Event


def event_of(result: Result, rule: str, time: float, tensors: bool = False, left_out: int = 0) -> Event:
    """The event of `result`, before which a loss scaler has left out so many steps.

    A clip that refused before it measured, and a step that was left out, know no norm, only which tensors are broken.
    """
    event = Event.of(
        result,
        step=result.step + left_out,
        rule=rule,
        engine=result.engine,
        norm=type(result.norm).__name__,
        time=time,
        offenders=result.offenders,
        tensors=result.tensors if tensors else None,
        loss=None if result.loss is None else float(result.to_host(result.loss)[0]),
    )
    if result.parts or not result.skipped:
        return event
    return replace(event, norm_before=math.nan, nonfinite=max(1, len(result.offenders)), tensors=None)


def norm_of(rule: AnyRule) -> str:
    """The norm that the events of `rule` are in, where no `Result` says it: that of its first stage."""
    first = rules_in(rule)[0]
    return "Linf" if isinstance(first.scope, Element) else type(first.norm).__name__
