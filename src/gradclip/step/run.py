"""One step, from the gradients to what they became: the line-up of the stages, each of which has a file of its own.

gradients in -> lay out -> measure -> decide -> respond -> write -> remember. A rule is a row of phases, and what a
later phase measures is what the earlier ones wrote; so all of the line is walked for each, and whatever could refuse
was asked before the first.
"""

from __future__ import annotations

from typing import Any, Protocol

from gradclip.engines.base import Engine, Measure, UnsupportedGradient
from gradclip.rules.arrays import SCALARS
from gradclip.rules.response import Rescale
from gradclip.rules.threshold import SecondMoment
from gradclip.step.carry import clip_carrying
from gradclip.step.decide import Plan, Terms, decide_sweep, either, elementwise_decision
from gradclip.step.gradients import Gradients, refuse_missing
from gradclip.step.layout import Column, LineUp
from gradclip.step.measure import gathered, gathered_once, measured, numbers_of, refused, weights_of
from gradclip.step.memory import Memories
from gradclip.step.moments import over_moments
from gradclip.step.part import ALIKE, Part, Work, nothing
from gradclip.step.respond import Answer, respond
from gradclip.step.result import Result
from gradclip.step.write import bounds_of


class Runs(Protocol):
    """Whom a step is run for: a clipper, with what it keeps from step to step.

    `tensors` says that the norm of each tensor is wanted; `write` writes a part, or hands its coefficient to an
    optimizer; what is `carried` over is added to the gradients of the next step.
    """

    line: LineUp
    memories: Memories
    answer: Answer
    carried: dict[str, Any]

    @property
    def tensors(self) -> bool: ...
    def reads(self, engine: Engine) -> bool:
        """Whether a host reads what was decided before anything is written."""

    def write(self, part: Part, batch: Any, engine: Engine) -> None: ...


def run(clipper: Runs, gradients: Gradients, result: Result) -> None:
    """Clip `gradients` in place by the engine of `result`, and fill it in."""
    line, engine = clipper.line, result.source
    refuse_missing(line.rule, line.reads_given, line.reads_moments, gradients, result.step)
    gradients, batch = gathered_once(engine, gradients)
    if not line.carries:
        run_phases(clipper, gradients, batch, result)
        return
    try:
        clipper.carried |= clip_carrying(
            lambda sums: run_phases(clipper, sums, gathered(engine, sums), result),
            result,
            gradients,
            engine,
            clipper.carried,
        )
    except UnsupportedGradient as error:
        raise refused(gradients, error) from None


def run_phases(clipper: Runs, gradients: Gradients, batch: Any, result: Result) -> None:
    """The phases of the rule; `batch` is that of all gradients, until something is written."""
    line, engine, broken = clipper.line, result.source, None
    line.refuse_late(gradients, batch, engine, result.step)
    reads = clipper.reads(engine)
    for number in range(len(line.phases)):
        works = [
            judged(clipper, column, gradients, batch, broken, result) for column in line.columns(number, gradients)
        ]
        result.parts += [work.part for work in works]
        if not works:
            clipper.answer.warn_unmatched(line.phases[number].names, gradients)
        if reads and respond(works, clipper.answer, engine, result, gradients.across):
            break
        for work in works:
            if not work.written:
                clipper.write(work.part, work.batch, engine)
                work.finish()
        batch = None
        if line.adapts and number + 1 < len(line.phases):
            broken = broken_after(works, broken, gradients)
    if line.adapts:
        for part in result.parts:
            states = [decision.state for decision in part.plan.decisions]
            clipper.memories.remember(part.key, part.owners, states, part.measure)


def judged(clipper: Runs, column: Column, gradients: Gradients, batch: Any, broken: Any, result: Result) -> Work:
    """A sweep, measured and decided; only the fused clamp writes, and only where none can refuse."""
    own = column.only(gradients)
    if batch is None or own is not gradients:
        batch = gathered(result.source, own)
    try:
        return (clamped if column.sweep.elementwise else rescaled)(clipper, column, own, batch, broken, result)
    except UnsupportedGradient as error:
        raise refused(own, error) from None


def rescaled(clipper: Runs, column: Column, own: Gradients, batch: Any, broken: Any, result: Result) -> Work:
    """A sweep of rescaling stages: one measure, then one decision a stage."""
    sweep, engine = column.sweep, result.source
    measure, each = measured(engine, batch, sweep, len(own.tensors) if clipper.tensors else 0)
    lifted = sweep.keeps_rows and measure.xp is SCALARS
    measure = engine.in_arrays(measure) if lifted else measure  # type: ignore[attr-defined]
    shapes = engine.shapes(batch, sweep.leaf) if sweep.reads_shapes else ()
    segments, owners = column.segments(shapes, own), column.owners(shapes, own, clipper.memories)
    plan = decide_sweep(
        measure,
        sweep.stages,
        segments,
        clipper.memories.states_of(column.key, owners, measure),
        terms_of(clipper.line, own, measure, broken, result),
        weights_of(sweep, own, engine, shapes) if sweep.reads_weights else None,
    )
    if lifted:
        plan = plan._replace(coefficient=plan.coefficient.item())
    return Work(Part(column.key, sweep, own.name, shapes, own.divisor, measure, plan, segments, owners, each), batch)


def clamped(clipper: Runs, column: Column, own: Gradients, batch: Any, broken: Any, result: Result) -> Work:
    """A stage of elements; an engine with a fused clamp measures and writes in the same read."""
    engine, sweep, line, finish = result.source, column.sweep, clipper.line, nothing
    (rule,) = sweep.stages
    relative = rule.threshold if isinstance(rule.threshold, SecondMoment) else None
    if relative:
        engine.refuse_unordered(batch)
        tensors, finish = over_moments(own, relative.factor, engine)
        own, batch = own._replace(tensors=tensors, divisor=1.0), engine.gather(tensors)
    fuses = hasattr(engine, "clamp_") and type(rule.response).coefficient is Rescale.coefficient and line.policy.warns
    if fuses and not (relative or rule.threshold.adapts or line.can_skip or line.can_raise):
        low, high = bounds_of(rule, result.step, own.divisor, engine.xp)  # type: ignore[attr-defined]
        measure = engine.clamp_(batch, low, high)  # type: ignore[attr-defined]
    else:
        fuses, measure = False, engine.measure(batch, rule.scope, rule.norm)
    owners = column.owners((), own, clipper.memories)
    (state,) = clipper.memories.states_of(column.key, owners, measure)
    decision = elementwise_decision(measure, rule, state, terms_of(clipper.line, own, measure, broken, result))
    part = Part(column.key, sweep, own.name, (), own.divisor, measure, Plan(None, [decision]), [ALIKE], owners)
    return Work(part, batch, fuses, finish)


def terms_of(line: LineUp, own: Gradients, measure: Measure, broken: Any, result: Result) -> Terms:
    """What a sweep is decided by, beside its measure."""
    return Terms(line.policy, result.step, own.divisor, numbers_of(own, measure), broken, own.across)


def broken_after(works: list[Work], broken: Any, gradients: Gradients) -> Any:
    """Whether any process has measured a non-finite element in these works, or `broken` says so already."""
    across = gradients.across
    for work in works:
        measure = work.part.measure
        if across is not None:
            measure = measure._replace(nonfinite=across.shards(work.part.counts, "sum"))
        broken = either(measure, broken, across)
    return broken
