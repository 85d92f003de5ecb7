"""From what was recorded of a step to its event: which clip acted hardest, and what it left."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from gradclip.rules.norm import NORMS, Lp
from gradclip.step.result import Result
from gradclip.telemetry.event import Event
from gradclip.watch.gradient_norms import GradientNorms, combined_norm
from gradclip.watch.journal import NORM, OVERFLOW, OWN_CODE, RULE, Applied, Examined, Flaw, Loss

EPSILON = 1e-6
"""What `torch.nn.utils` adds to the norm that it divides by."""
UNCLIPPED = "the script does not clip"
CHANGED = 0.01
"""Relative difference of two norms from which on something changed the gradient: more than rounding does."""
SMALL_SHARE = 1e-3
"""A gradient below this share of the largest may be changed by rounding as its loss scale is taken away."""
MOST_PARTS, LEAST_OFF, ROUNDED = 5000.0, 1e-3, 2e-5
"""A mean is over so many at most, and exact but for rounding: a factor of a norm is seldom so near a whole number."""
Norms = dict[int, tuple[float, float]]
"""Of each parameter, by `id`, the norm of its gradient and its non-finite elements."""


class WatchedStep(NamedTuple):
    """One step of an optimizer as it was recorded; numbers may lie on a device until it is read.

    `rest` are the gradients that no clip has seen, measured as the optimizer got them, `divisor` what it divides them
    by, `peak` the largest elements, where something was asked for and nothing clips. `skipped`: GradScaler left the
    step out, or the optimizer did, as a flag that may lie on a device. `where` is the line of the step. Of several
    processes, `at_step` are all gradients as the optimizer got them, where the processes are to be compared, which
    `compares` says, and `peak_at_step` their largest elements; `sends` that this one has sent tensors to single others.
    """

    number: int
    time: float
    examined: Examined
    rest: GradientNorms
    divisor: Any
    skipped: Any = False
    peak: GradientNorms | None = None
    where: str = ""
    at_step: GradientNorms | None = None
    peak_at_step: GradientNorms | None = None
    compares: bool = False
    sends: bool = False


class ClipEffect(NamedTuple):
    """What a clip did, in numbers."""

    sentence: str
    norm: float
    threshold: float
    coefficient: float
    measured: str
    overflow: Flaw | None


class SeenNumbers(NamedTuple):
    """What a step did, as it was seen from outside: `gradclip.telemetry.event.StepNumbers`."""

    norm_before: float
    norm_after: float
    threshold: float
    coefficient: float
    clipped: bool
    skipped: bool
    nonfinite: float


def event_of_step(step: WatchedStep, names: Mapping[int, str]) -> tuple[Event, list[Flaw]]:
    """The event of a step, and what is wrong with it; this reads the numbers."""
    rest, skipped = step.rest.read(float(step.divisor)), bool(step.skipped)
    effects: list[ClipEffect] = []
    read: Norms = {}
    for applied in step.examined.applied:
        norms = applied.clip.norms_before.read(float(applied.scale))
        effects.append(effect_of(applied, norms))
        read = norms | read
    made = made_before(step, rest)
    read = made or rest | read
    tensors = {names.get(parameter, "?"): norm for parameter, (norm, _) in read.items()}
    offenders = [names.get(parameter, "?") for parameter, (_, count) in read.items() if count]
    hardest = min(effects, key=lambda effect: (effect.coefficient, effect.threshold), default=None)
    total = combined_norm(tensors.values(), step.rest.order)
    if hardest is not None and in_parts(step.examined.applied):
        pairs = zip(effects, step.examined.applied, strict=True)
        acting = [effect for effect, applied in pairs if not applied.clip.measures]
        hardest = together(acting, hardest, rest, step.rest.order)
    if made:
        left = combined_norm((norm for norm, _ in rest.values()), step.rest.order)
        hardest = ClipEffect(own_code(step), total, math.inf, left / total, norm_name(step.rest.order), None)
    if hardest is None:
        hardest = ClipEffect(UNCLIPPED, total, math.inf, 1.0, norm_name(step.rest.order), None)
    numbers = SeenNumbers(
        norm_before=hardest.norm,
        norm_after=0.0 if skipped else norm_after(hardest),
        threshold=hardest.threshold,
        coefficient=hardest.coefficient,
        clipped=not skipped and hardest.coefficient < 1.0,
        skipped=skipped,
        nonfinite=sum(count for _, count in read.values()),
    )
    event = Event.of(
        numbers,
        step=step.number,
        rule=hardest.sentence,
        engine="torch",
        norm=hardest.measured,
        time=step.time,
        offenders=offenders,
        tensors=tensors,
        loss=loss_of(step.examined.losses),
    )
    return event, step.examined.flaws + [effect.overflow for effect in effects if effect.overflow]


def in_parts(applied: Sequence[Applied]) -> bool:
    """Whether several calls clipped a part of the gradients each, by norms of one order."""
    clips = [one.clip for one in applied if not one.clip.measures]
    alike = len({clip.order for clip in clips}) == 1 and all(clip.kind != RULE for clip in clips)
    every = sum(len(clip.parameters) for clip in clips)
    return len(clips) > 1 and alike and len(frozenset().union(*(clip.parameters for clip in clips))) == every


def together(effects: Sequence[ClipEffect], hardest: ClipEffect, rest: Norms, order: float) -> ClipEffect:
    """What the clips of the parts did to the whole; its words and its threshold are those of the hardest."""
    left = [norm for norm, _ in rest.values()]
    before = combined_norm([*left, *(effect.norm for effect in effects)], order)
    after = combined_norm([*left, *map(norm_after, effects)], order)
    return hardest._replace(norm=before, coefficient=after / before if 0.0 < after < before else hardest.coefficient)


def own_code(step: WatchedStep) -> str:
    """The script's own code as a call."""
    return f"{OWN_CODE} at {step.where}"


def made_before(step: WatchedStep, rest: Norms) -> Norms:
    """The norms of the gradients when they were made, if code of the script's own made them smaller since; else none.

    What a clip did that is known is no such code, and neither is a mean over micro-steps: all over a whole number.
    """
    known = step.examined.made
    if known is None or step.rest.order != 2.0 or any(not a.clip.measures for a in step.examined.applied):
        return {}
    made = known.norms.read(float(known.scale))
    if made.keys() != rest.keys() or not all(math.isfinite(norm) for norm, _ in (*made.values(), *rest.values())):
        return {}
    largest = max((norm for norm, _ in made.values()), default=0.0)
    ratios = [rest[key][0] / norm for key, (norm, _) in made.items() if norm > SMALL_SHARE * largest]
    if not ratios or max(ratios) > 1.0 + CHANGED or min(ratios) > 1.0 - CHANGED:
        return {}
    return {} if is_mean(ratios) else made


def is_mean(ratios: Sequence[float]) -> bool:
    """Whether all gradients were divided by one whole number, as of micro-steps or words, or by a scale of 2^n."""
    smallest = min(ratios)
    if smallest <= 0.0 or max(ratios) - smallest > ROUNDED * smallest:
        return False
    parts = 1.0 / smallest
    power = 2.0 ** round(math.log2(parts))
    whole = parts < MOST_PARTS and abs(parts - round(parts)) < max(LEAST_OFF, ROUNDED * parts)
    return parts > 1.5 and (whole or math.isclose(parts, power, rel_tol=ROUNDED))


def loss_of(losses: Sequence[Loss]) -> float | None:
    """The loss whose gradient the optimizer got: the sum of those that gradients were made of; None where none was."""
    return sum(float(loss.value) / float(loss.scale) for loss in losses) if losses else None


def effect_of(applied: Applied, read: Mapping[int, tuple[float, float]]) -> ClipEffect:
    """What a clip did to the gradients that were `read` before it."""
    clip, scale = applied
    if clip.kind == RULE:
        result: Result = clip.norm
        before, after, measured = result.norm_before, result.norm_after, type(result.norm).__name__
        coefficient = after / before if before > after else 1.0
        return ClipEffect(clip.sentence(), before, result.threshold, coefficient, measured, None)
    measured_here = clip.order in (2.0, math.inf) and (clip.norms_before.whole or clip.norm is None)
    norm = (
        combined_norm((n for n, _ in read.values()), clip.order) if measured_here else float(clip.norm) / float(scale)
    )
    threshold = math.inf if clip.measures else clip.threshold / float(scale)
    returned = norm if clip.norm is None else float(clip.norm)
    finite = not any(count for _, count in read.values())
    overflow = Flaw(OVERFLOW, clip.where, clip.by) if finite and not math.isfinite(returned) else None
    divisor = returned / float(scale) + (EPSILON if clip.kind == NORM else 0.0)
    coefficient = 1.0 if divisor <= threshold else threshold / divisor
    return ClipEffect(clip.sentence(), norm, threshold, coefficient, norm_name(clip.order), overflow)


def norm_name(order: float) -> str:
    """The name of the norm of this order, as events have it; a script may take one that is none."""
    return type(NORMS.get(order, Lp())).__name__


def norm_after(effect: ClipEffect) -> float:
    """The norm after a clip."""
    return effect.norm if effect.coefficient == 1.0 else effect.norm * effect.coefficient
