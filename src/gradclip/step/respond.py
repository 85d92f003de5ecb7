"""Responding: what the decisions of a step mean for it. Warn, skip or raise, before anything is written."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Callable
from typing import Any

from gradclip.engines.base import Across, Engine
from gradclip.errors import GradclipWarning, GradientAboveThreshold, NonFiniteGradient
from gradclip.rules.norm import Linf
from gradclip.rules.response import KEEP, RAISE, SKIP
from gradclip.rules.rule import Rules
from gradclip.rules.scope import Tensor
from gradclip.step.gradients import Gradients
from gradclip.step.part import Part, Work, actions_of, offenders_in
from gradclip.step.policy import Policy
from gradclip.step.result import Result


class Answer:
    """What a clipper answers to the decisions of its steps; it says a thing once.

    `names` asks for the names of the tensors with a non-finite element whatever the policy is.
    """

    def __init__(self, policy: Policy, can_skip: bool, names: bool) -> None:
        self.policy, self.can_skip, self.names = policy, can_skip, names
        self.warned = self.warned_unmatched = False

    def warn_unmatched(self, rules: Rules | None, gradients: Gradients) -> None:
        """Say once that no parameter has a name that any pattern matches."""
        if rules is not None and not self.warned_unmatched:
            self.warned_unmatched = warn_unmatched(rules, gradients)


def respond(works: list[Work], answer: Answer, engine: Engine, result: Result, across: Across | None) -> bool:
    """Whether to skip the step; raises or warns where the decisions say so. What one process skips, all skip."""
    alarms = [(work.part, work.batch) for work in works if alarming(work.part)]
    skips = [asks_to_skip(part, batch, engine, result.step, answer.policy) for part, batch in alarms]
    skip = any(skips)
    if across is not None and answer.can_skip:
        measure = works[0].part.measure
        skip = engine.to_host(across.tensors(measure.xp.array([float(skip)], measure.total), "max"))[0] > 0
    result.settle(skip)
    if answer.names:
        result.looked_up += [name for part, batch in alarms for name in offenders(part, batch, engine)]
    for part, batch in alarms:
        if answer.policy.warns and not skip and not answer.warned:
            answer.warned = warn_nonfinite(part, batch, engine, result.step)
    return skip


def alarming(part: Part) -> bool:
    """Whether any segment is non-finite, to be skipped or to be raised for: rare, and checked before the words."""
    xp = part.measure.xp
    if part.sweep.elementwise and xp.any(part.measure.nonfinite > 0):
        return True
    return any(xp.any(decision.action >= KEEP) for decision in part.plan.decisions)


def asks_to_skip(part: Part, batch: Any, engine: Engine, step: int, policy: Policy) -> bool:
    """Whether a part asks to skip the step; raises instead where its rule or the clipper says so."""
    actions = actions_of(part, engine)
    if RAISE in actions:
        raise _error(part, batch if policy.raises else None, engine, step)
    return SKIP in actions


def warn_nonfinite(part: Part, batch: Any, engine: Engine, step: int) -> bool:
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


def refuse_nonfinite(gradients: Gradients, batch: Any, engine: Engine, step: int) -> None:
    """Raise if any gradient is non-finite."""
    if names := broken_names(gradients, batch, engine):
        raise _nonfinite(names, step)


def broken_names(gradients: Gradients, batch: Any, engine: Engine) -> list[str]:
    """The names of the gradients with a non-finite element."""
    return _broken(gradients.name, batch, engine)[0]


def _nonfinite(names: list[str], step: int) -> NonFiniteGradient:
    error = NonFiniteGradient(
        f"the gradient of {_listed(names)} is non-finite at step {step}; no gradient was written: lower the learning "
        'rate, look at the batch, or use on_nonfinite="skip" to leave such steps out'
    )
    error.parameters = tuple(names)
    return error


def offenders(part: Part, batch: Any, engine: Engine) -> list[str]:
    """The names of the tensors with a non-finite element; all, where only their sum leaves the range of float64."""
    if known := offenders_in(part, engine.to_host):
        return known
    if not any(math.isnan(n) or math.isinf(n) or bad for n, bad in zip(*_norms(part, engine), strict=True)):
        return []
    broken, every = _broken(part.name, batch, engine)
    return broken or ([] if part.sweep.apart else every)  # apart: it is another process that has it


def _broken(name: Callable[[int], str], batch: Any, engine: Engine) -> tuple[list[str], list[str]]:
    """The names of the tensors with a non-finite element, and those of all."""
    counts = engine.to_host(engine.measure(batch, Tensor(), Linf()).nonfinite)
    every = [name(index) for index in range(len(counts))]
    return [one for one, count in zip(every, counts, strict=True) if count], every


def _norms(part: Part, engine: Engine) -> tuple[list[float], list[float]]:
    norms, counts = engine.to_host(part.plan.decisions[0].norm), engine.to_host(part.measure.nonfinite)
    width = max(len(norms), len(counts))
    return norms + [0.0] * (width - len(norms)), counts + [0.0] * (width - len(counts))


def _error(part: Part, batch: Any, engine: Engine, step: int) -> Exception:
    names = [] if batch is None else offenders(part, batch, engine)
    elsewhere = batch is not None and part.sweep.apart and not all(map(math.isfinite, _norms(part, engine)[0]))
    if names or elsewhere:
        return _nonfinite(names or ["another process"], step)
    for rule, decision in zip(part.sweep.stages, part.plan.decisions, strict=True):
        norms = zip(engine.to_host(decision.norm), engine.to_host(decision.action), strict=True)
        if above := [norm for norm, action in norms if action == RAISE]:
            largest = max(above)
            return GradientAboveThreshold(
                f"at step {step} the norm is {largest:g} ({rule!r}); no gradient was written: "
                "lower the learning rate, raise the threshold, or respond with SkipStep()"
            )
    raise AssertionError("a part raised without a decision to raise")


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
