"""One step, from the gradients to what they became: the line-up of the stages, each of which has a file of its own.

gradients in -> lay out -> measure -> decide -> respond -> write -> remember. A rule is a row of phases, and what a
later phase measures is what the earlier ones wrote; so the line is walked for each of them, and whatever could refuse
was asked before the first is written.
"""

from __future__ import annotations

from typing import Protocol

from gradclip.engines.base import Batch, Engine
from gradclip.rules.arrays import Operand
from gradclip.rules.threshold import Step
from gradclip.step.carry import carry
from gradclip.step.decide import Terms, decide_sweep, either
from gradclip.step.gradients import Gradients, gathered, gathered_once, refuse_missing
from gradclip.step.layout import Column, LineUp
from gradclip.step.measure import Read, read
from gradclip.step.memory import Memories
from gradclip.step.part import Part, Work
from gradclip.step.respond import Answer, respond
from gradclip.step.result import Result


class Listener(Protocol):
    """Telemetry; `tensors` says that it wants the norm of each tensor."""

    @property
    def tensors(self) -> bool: ...


class Runs(Protocol):
    """Whom a step is run for: a clipper, with what it keeps from step to step.

    `write` writes a part, or hands its coefficient to an optimizer; what is `carried` over is added to the gradients of
    the next step.
    """

    line: LineUp
    memories: Memories
    answer: Answer
    carried: dict[str, Operand]
    max_consecutive_skips: int | None

    @property
    def telemetry(self) -> Listener | None: ...
    def write(self, part: Part, batch: Batch, engine: Engine) -> None: ...


def run(clipper: Runs, gradients: Gradients, result: Result) -> bool:
    """Clip `gradients` in place by the engine of `result`, and fill it in; whether a host has read what was decided.

    A host does where that costs nothing, or where something may have to stop the step.
    """
    line, engine, step, telemetry = clipper.line, result.source, result.step, clipper.telemetry
    reads = not engine.waits or line.can_raise or clipper.max_consecutive_skips is not None
    tensors = telemetry is not None and telemetry.tensors
    refuse_missing(line.rule, line.reads_given, line.reads_moments, gradients, step)
    gradients, batch = gathered_once(engine, gradients)
    if line.carries:
        gradients, settle = carry(gradients, result, engine, clipper.carried)
        batch = gathered(engine, gradients)
    broken = None
    for number, columns in enumerate(line.laid_out(gradients, batch, engine, step)):
        works = []
        for column in columns:
            own = column.only(gradients)
            known = batch if own is gradients else None
            found = read(column.sweep, own, known, engine, line, step, tensors)
            works.append(decided(clipper, column, found, broken, step))
        result.parts += [work.part for work in works]
        if not works:
            clipper.answer.warn_unmatched(line.phases[number].names, gradients)
        names = telemetry is not None
        if reads and respond(works, clipper.answer, engine, result, gradients.across, names):
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
    if line.carries:
        clipper.carried |= settle()
    return reads


def decided(clipper: Runs, column: Column, found: Read, broken: Operand, step: Step) -> Work:
    """A sweep that was measured, decided."""
    line, sweep, own, measure = clipper.line, column.sweep, found.own, found.measure
    segments, owners = column.segments(found.shapes, own), column.owners(found.shapes, own, clipper.memories)
    states = clipper.memories.states_of(column.key, owners, measure) if line.adapts else column.blank
    terms = Terms(line.policy, step, own.divisor, found.given, broken, own.across)
    plan = decide_sweep(measure, sweep.stages, segments, states, terms, found.weights)
    if found.lifted:
        plan = plan._replace(coefficient=plan.coefficient.item())
    part = Part(column.key, sweep, own.name, found.shapes, own.divisor, measure, plan, segments, owners, found.each)
    return Work(part, found.batch, found.written, found.finish)


def broken_after(works: list[Work], broken: Operand, gradients: Gradients) -> Operand:
    """Whether any process has measured a non-finite element in these works, or `broken` says so already."""
    across = gradients.across
    for work in works:
        measure = work.part.measure
        if across is not None:
            measure = measure._replace(nonfinite=across.shards(work.part.counts, "sum"))
        broken = either(measure, broken, across)
    return broken
