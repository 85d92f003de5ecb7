"""Responding: what the decisions of a step mean for it. Warn, skip or raise, before anything is written."""

from __future__ import annotations

import math
import sys
import warnings

from gradclip.engines.base import Across, Batch, Engine
from gradclip.errors import GradclipWarning, GradientAboveThreshold, NonFiniteGradient, TooManySkips
from gradclip.rules.response import KEEP, PASS, RAISE, SKIP
from gradclip.rules.rule import Rule, Rules
from gradclip.step.gradients import Gradients
from gradclip.step.layout import Column, LineUp
from gradclip.step.measure import Read
from gradclip.step.nonfinite import ELSEWHERE, listed, nonfinite_error, offenders
from gradclip.step.part import Part, actions_of
from gradclip.step.policy import Policy
from gradclip.step.processes import in_any
from gradclip.step.result import Result


class Answer:
    """What a clipper answers to the decisions of its steps; it says a thing once.

    `stops` says that a step may be skipped or raise. `pending` are the warnings of this step: they come when it is
    over, so that one that a filter turns into an error leaves no step half done.
    """

    def __init__(self, policy: Policy, stops: bool) -> None:
        self.policy: Policy = policy
        self.stops: bool = stops
        self.warned: bool = False
        self.warned_unmatched: bool = False
        self.pending: list[str] = []

    def speak(self) -> None:
        """Give the warnings of the step."""
        while self.pending:
            warnings.warn(self.pending.pop(), GradclipWarning, stacklevel=user_level())

    def warn_unmatched(self, line: LineUp, phases: list[list[Column]], gradients: Gradients) -> None:
        """Say once of a phase without gradients that no parameter has a name that any of its patterns matches."""
        for phase, columns in zip(line.phases, phases, strict=True):
            met = any(column.indices != [] for column in columns)
            if phase.names is not None and not met and not self.warned_unmatched:
                self.warned_unmatched = warn_unmatched(phase.names, gradients)


def respond(
    parts: list[tuple[Part, Read]], answer: Answer, engine: Engine, result: Result, across: Across | None, names: bool
) -> bool:
    """Whether to skip the step; raises or warns where the decisions say so. What one process does, all do.

    `names` asks, whatever the policy is, for the names of the tensors with a non-finite element.
    """
    alarms = [(part, found.batch) for part, found in parts if alarming(part)]
    if not alarms and across is None:
        result.settle(False)
        return False
    action = max((found for part, _ in alarms for found in actions_of(part, engine)), default=PASS)
    late = parts[0][0].key[0] > 0
    error = _error(alarms, answer.policy, engine, result.step, late) if action == RAISE else None
    here = action = action + isinstance(error, NonFiniteGradient)
    if across is not None and answer.stops:
        first, found = parts[0]
        action = in_any(action, first.counts, first.measure.xp, engine, found.gradients.across or across)
    if action >= RAISE:
        raise error if error is not None and here == action else _elsewhere(action > RAISE, result.step, late)
    skip = action == SKIP
    result.settle(skip)
    if names:
        result.looked_up += [name for part, batch in alarms for name in offenders(part, batch, engine)]
    for part, batch in alarms:
        if answer.policy.warns and not skip and not answer.warned:
            answer.pending += nonfinite_words(part, batch, engine, result.step)
            answer.warned = bool(answer.pending)
    return skip


def too_many_skips(skips: int, limit: int, step: int) -> TooManySkips:
    """Why training stops: more steps in a row were skipped, the last at `step`, than the limit allows."""
    return TooManySkips(
        f"{skips} steps in a row were skipped, the last at step {step}, more than max_consecutive_skips={limit}: "
        "training has diverged; go back to a checkpoint and lower the learning rate"
    )


def alarming(part: Part) -> bool:
    """Whether any segment is non-finite, to be skipped or to be raised for: rare, and checked before the words."""
    xp = part.measure.xp
    for decision in part.plan.decisions:
        if xp.any(decision.action >= KEEP):
            return True
    return bool(part.sweep.elementwise and xp.any(part.measure.nonfinite > 0))


def nonfinite_words(part: Part, batch: Batch, engine: Engine, step: int) -> list[str]:
    """What to warn of: the non-finite gradients of a part by name, if it has any that are kept."""
    names = offenders(part, batch, engine)
    what = "its infinities become the bound, NaN stays" if part.sweep.elementwise else "it is left as it is"
    words = (
        f"the gradient of {listed(names)} is non-finite at step {step}; {what} and counted in `last.nonfinite` "
        '(this is said once). on_nonfinite="skip" leaves such steps out, "raise" stops there'
    )
    return [words] if names else []


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


def _error(alarms: list[tuple[Part, Batch]], policy: Policy, engine: Engine, step: int, late: bool) -> Exception:
    """Why the step raises: a non-finite gradient by its name, else a norm above its threshold."""
    names = [name for part, batch in alarms if policy.raises for name in offenders(part, batch, engine)]
    above = [pair for part, _ in alarms for pair in _norms_above(part, engine)]
    if names or (policy.raises and not all(math.isfinite(norm) for norm, _ in above)):
        return nonfinite_error(names or [ELSEWHERE], step, late)
    largest, rule = max(above, key=lambda pair: pair[0])
    return _above(f"the norm is {largest:g} ({rule!r})", step)


def _elsewhere(nonfinite: bool, step: int, late: bool) -> Exception:
    """The error of a process that has nothing to raise for itself."""
    if nonfinite:
        return nonfinite_error([ELSEWHERE], step, late)
    return _above(f"{ELSEWHERE} has a norm above its threshold", step)


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


def report_nothing(what: str) -> None:
    """Say that there is nothing to clip."""
    warnings.warn(f"nothing is clipped: {what}", GradclipWarning, stacklevel=user_level())


def report_none_found(trained: bool) -> None:
    """Say that no parameter has a gradient; tensors that are not even `trained` are likely to be gradients."""
    report_nothing(
        "no parameter has a gradient that needs clipping; call it between backward() and step()"
        if trained
        else "none of these tensors is trained, so none has a gradient: hand over the parameters, not their gradients"
    )


SLOW = (
    "gradients on the CPU are clipped by plain operations of the framework, with the same numbers but many times "
    'slower for many tensors, for numba does not compile here: pip install "gradclip[cpu]", and leave '
    "NUMBA_DISABLE_JIT unset (said once)"
)


_said: list[str] = []


def slow(engine: Engine) -> Engine:
    """The engine that serves where there is no faster one, which is said once in a process."""
    if not _said:
        _said.append(SLOW)  # before it is said: a filter may make an error of it
        warnings.warn(SLOW, GradclipWarning, stacklevel=user_level())
    return engine


TRAINERS = ("lightning", "transformers", "accelerate", "stable_baselines3", "skorch", "ignite", "fastai", "fastcore")
"""What calls the optimizers of its users; a warning that points into it helps nobody."""


def user_level() -> int:
    """The `stacklevel` at which a warning points at the first line outside this package and the frameworks."""
    level, frame = 1, sys._getframe(1)
    inner = ("gradclip", "torch", "paddle", "jax", "optax", "keras", "contextlib", "decorator", *TRAINERS)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").split(".")[0] in inner:
        frame, level = frame.f_back, level + 1
    return level
