"""Responding: what the decisions of a step mean for it. Warn, skip or raise, before anything is written."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Callable

from gradclip.engines.base import Across, Batch, Engine, Measure
from gradclip.errors import GradclipWarning, GradientAboveThreshold, NonFiniteGradient
from gradclip.rules.arrays import Array, ArrayFunctions
from gradclip.rules.norm import Linf
from gradclip.rules.response import KEEP, PASS, RAISE, SKIP
from gradclip.rules.rule import Rule, Rules
from gradclip.rules.scope import Tensor
from gradclip.rules.threshold import Step
from gradclip.step.gradients import Gradients
from gradclip.step.part import Part, Work, actions_of, offenders_in
from gradclip.step.policy import Policy
from gradclip.step.result import Result

ELSEWHERE = "another process"
"""Where the processes share gradients: the name of what this one does not have."""


class Answer:
    """What a clipper answers to the decisions of its steps; it says a thing once.

    `stops` says that a step may be skipped or raise.
    """

    def __init__(self, policy: Policy, stops: bool) -> None:
        self.policy, self.stops = policy, stops
        self.warned = self.warned_unmatched = False

    def warn_unmatched(self, rules: Rules | None, gradients: Gradients) -> None:
        """Say once that no parameter has a name that any pattern matches."""
        if rules is not None and not self.warned_unmatched:
            self.warned_unmatched = warn_unmatched(rules, gradients)


def respond(
    works: list[Work], answer: Answer, engine: Engine, result: Result, across: Across | None, names: bool
) -> bool:
    """Whether to skip the step; raises or warns where the decisions say so. What one process does, all do.

    `names` asks, whatever the policy is, for the names of the tensors with a non-finite element.
    """
    alarms = [(work.part, work.batch) for work in works if alarming(work.part)]
    if not alarms and across is None:
        result.settle(False)
        return False
    asked = max((action for part, _ in alarms for action in actions_of(part, engine)), default=PASS)
    error = _error(alarms, answer.policy, engine, result.step) if asked == RAISE else None
    own = asked = asked + isinstance(error, NonFiniteGradient)
    if across is not None and answer.stops:
        asked = in_any(asked, works[0].part.counts, works[0].part.measure.xp, engine, across)
    if asked >= RAISE:
        raise error if error is not None and own == asked else _elsewhere(asked > RAISE, result.step)
    skip = asked == SKIP
    result.settle(skip)
    if names:
        result.looked_up += [name for part, batch in alarms for name in offenders(part, batch, engine)]
    for part, batch in alarms:
        if answer.policy.warns and not skip and not answer.warned:
            answer.warned = warn_nonfinite(part, batch, engine, result.step)
    return skip


def in_any(number: float, counts: Array, xp: ArrayFunctions, engine: Engine, across: Across) -> float:
    """The largest `number` of any process, which has as many tensors as `counts`; all ask, in the same order."""
    shared = max(engine.to_host(across.shards(0.0 * counts + number, "max")), default=number)
    return engine.to_host(across.tensors(xp.array([float(shared)], counts), "max"))[0]


def alarming(part: Part) -> bool:
    """Whether any segment is non-finite, to be skipped or to be raised for: rare, and checked before the words."""
    xp = part.measure.xp
    if part.sweep.elementwise and xp.any(part.measure.nonfinite > 0):
        return True
    return any(xp.any(decision.action >= KEEP) for decision in part.plan.decisions)


def warn_nonfinite(part: Part, batch: Batch, engine: Engine, step: int) -> bool:
    """Warn of the non-finite gradients of a part by name, if it has any that are kept."""
    names = offenders(part, batch, engine)
    what = "its infinities become the bound, NaN stays" if part.sweep.elementwise else "it is left as it is"
    if names:
        warnings.warn(
            f"the gradient of {_listed(names)} is non-finite at step {step}; {what} and counted in `last.nonfinite` "
            '(this is said once). on_nonfinite="skip" leaves such steps out, "raise" stops there',
            GradclipWarning,
            stacklevel=user_level(),
        )
    return bool(names)


def warn_unmatched(rules: Rules, gradients: Gradients) -> bool:
    """Warn that no parameter has a name that any pattern matches."""
    if any(rules.match(gradients.name(index)) is not None for index in range(len(gradients.tensors))):
        return False  # matched by a pattern that leaves them alone
    warnings.warn(
        f"no name of a parameter matches {', '.join(repr(pattern) for pattern, _ in rules.parts)}, so nothing is "
        f"clipped by it; the names are like {gradients.name(0)!r}: attach(..., model=model) or clip_(model) gives the "
        "model's",
        GradclipWarning,
        stacklevel=user_level(),
    )
    return True


def refuse_nonfinite(gradients: Gradients, batch: Batch, engine: Engine, step: Step) -> None:
    """Raise if any gradient is non-finite, in this process or in another one."""
    measure = _each(batch, engine)
    names = _named(gradients.name, measure, engine)
    found: float = len(names)
    if gradients.across is not None:
        found = in_any(found, measure.nonfinite, measure.xp, engine, gradients.across)
    if found:
        raise _nonfinite(names or [ELSEWHERE], step)


def broken_names(gradients: Gradients, batch: Batch, engine: Engine) -> list[str]:
    """The names of the gradients with a non-finite element."""
    return _named(gradients.name, _each(batch, engine), engine)


def _nonfinite(names: list[str], step: Step) -> NonFiniteGradient:
    error = NonFiniteGradient(
        f"the gradient of {_listed(names)} is non-finite at step {step}; no gradient was written: lower the learning "
        'rate, look at the batch, or use on_nonfinite="skip" to leave such steps out'
    )
    error.parameters = tuple(names)
    return error


def offenders(part: Part, batch: Batch, engine: Engine) -> list[str]:
    """The names of the tensors with a non-finite element; all, where only their sum leaves the range of float64."""
    if known := offenders_in(part, engine.to_host):
        return known
    if not any(math.isnan(n) or math.isinf(n) or bad for n, bad in zip(*_norms(part, engine), strict=True)):
        return []
    each = _each(batch, engine)
    every = [] if part.sweep.per_tensor else [part.name(index) for index in range(len(engine.to_host(each.nonfinite)))]
    return _named(part.name, each, engine) or every  # apart: it is another process that has it


def _each(batch: Batch, engine: Engine) -> Measure:
    """The measure of each tensor, for what is non-finite in it."""
    return engine.measure(batch, Tensor(), Linf())


def _named(name: Callable[[int], str], each: Measure, engine: Engine) -> list[str]:
    """The names of the tensors with a non-finite element, from the measure of each."""
    return [name(index) for index, count in enumerate(engine.to_host(each.nonfinite)) if count]


def _norms(part: Part, engine: Engine) -> tuple[list[float], list[float]]:
    norms, counts = engine.to_host(part.plan.decisions[0].norm), engine.to_host(part.measure.nonfinite)
    width = max(len(norms), len(counts))
    return norms + [0.0] * (width - len(norms)), counts + [0.0] * (width - len(counts))


def _error(alarms: list[tuple[Part, Batch]], policy: Policy, engine: Engine, step: int) -> Exception:
    """Why the step raises: a non-finite gradient by its name, else a norm above its threshold."""
    names = [name for part, batch in alarms if policy.raises for name in offenders(part, batch, engine)]
    above = [pair for part, _ in alarms for pair in _norms_above(part, engine)]
    if names or (policy.raises and not all(math.isfinite(norm) for norm, _ in above)):
        return _nonfinite(names or [ELSEWHERE], step)
    largest, rule = max(above, key=lambda pair: pair[0])
    return _above(f"the norm is {largest:g} ({rule!r})", step)


def _elsewhere(nonfinite: bool, step: int) -> Exception:
    """The error of a process that has nothing to raise for itself."""
    return _nonfinite([ELSEWHERE], step) if nonfinite else _above(f"{ELSEWHERE} has a norm above its threshold", step)


def _above(found: str, step: int) -> GradientAboveThreshold:
    return GradientAboveThreshold(
        f"at step {step} {found}; no gradient was written: "
        "lower the learning rate, raise the threshold, or respond with SkipStep()"
    )


def _norms_above(part: Part, engine: Engine) -> list[tuple[float, Rule]]:
    """The norms that the stages of a part raise for, each with its rule."""
    return [
        (norm, rule)
        for rule, decision in zip(part.sweep.stages, part.plan.decisions, strict=True)
        for norm, action in zip(engine.to_host(decision.norm), engine.to_host(decision.action), strict=True)
        if action == RAISE
    ]


def _listed(names: list[str], most: int = 3) -> str:
    shown = ", ".join(map(repr, names[:most]))
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def report_nothing(what: str) -> None:
    """Say that there is nothing to clip."""
    warnings.warn(f"nothing is clipped: {what}", GradclipWarning, stacklevel=user_level())


def user_level() -> int:
    """The `stacklevel` at which a warning points at the first line outside this package and the frameworks."""
    level, frame = 1, sys._getframe(1)
    inner = ("gradclip", "torch", "paddle", "jax", "optax", "contextlib", "decorator")
    while frame.f_back is not None and frame.f_globals.get("__name__", "").split(".")[0] in inner:
        frame, level = frame.f_back, level + 1
    return level
