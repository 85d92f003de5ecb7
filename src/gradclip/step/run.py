"""One step, from the gradients to what they became: the line-up of the stages, each of which has a file of its own.

gradients in -> lay out -> measure -> decide -> respond -> write -> remember. A rule is a row of phases, and what a
later phase measures is what the earlier ones wrote; so the line is walked for each of them, and whatever could refuse
refuses before the first is written.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from gradclip.engines.base import Batch, Engine, UnsupportedGradient
from gradclip.rules.arrays import SCALARS, Operand
from gradclip.rules.threshold import Step
from gradclip.step.carry import carry
from gradclip.step.decide import NOTHING, Terms, decide_sweep
from gradclip.step.gradients import Gradients, gathered, gathered_once, refuse_missing, refused
from gradclip.step.layout import Column, LineUp
from gradclip.step.measure import Read, numbers_of, read
from gradclip.step.memory import Memories
from gradclip.step.part import Part
from gradclip.step.processes import broken_after
from gradclip.step.reduce import reduced
from gradclip.step.respond import Answer, respond
from gradclip.step.result import Result

decide_quietly = np.errstate(all="ignore")(decide_sweep)
"""For arrays of NumPy, which would warn of numbers that a `where` does not choose."""


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

    def write(self, part: Part, batch: Batch, engine: Engine) -> None: ...


def run(clipper: Runs, gradients: Gradients, result: Result, listeners: int) -> bool:
    """Clip `gradients` in place by the engine of `result`, and fill it in; whether a host has read what was decided.

    A host does where that costs nothing, or where something may have to stop the step. `listeners` says what is heard
    of it in this process: 0 nothing, 1 the result, 2 the norm of each tensor as well.
    """
    line, engine, step = clipper.line, result.source, result.step
    reads = not engine.waits or line.can_raise or clipper.max_consecutive_skips is not None
    listeners = max(engine.listeners, listeners)
    tensors = listeners > 1
    refuse_missing(line.rule, line.reads_given, line.reads_moments, gradients, step)
    gradients, batch = gathered_once(engine, gradients, line.tables)
    if line.carries:
        gradients, settle = carry(gradients, result, engine, clipper.carried)
        batch = gathered(engine, gradients, line.tables)
    phases, broken = line.laid_out(gradients, batch, engine, step), None
    if not all(phases) or (gradients.across is not None and gradients.across.splits):
        clipper.answer.warn_unmatched(line, phases, gradients)
    for number, columns in enumerate(phases):
        founds = []
        for column in columns:
            chosen = column.only(gradients)
            founds.append(read(column, chosen, batch if chosen is gradients else None, engine, line, step, tensors))
        if engine.reduces:
            founds = reduced(founds, columns, engine)
        parts = [(decided(clipper, *pair, broken, step, engine), pair[1]) for pair in zip(columns, founds, strict=True)]
        result.parts += [part for part, _ in parts]
        if reads and respond(parts, clipper.answer, engine, result, gradients.across, listeners > 0):
            break
        for part, found in parts:
            try:
                if not found.written:
                    clipper.write(part, found.batch, engine)
            except UnsupportedGradient as error:  # which others had to hear of first
                raise refused(found.gradients, error) from None
            if found.finish is not None:
                found.finish()
        batch = None
        if line.adapts and number + 1 < len(line.phases):
            broken = broken_after([(part, found.gradients.across) for part, found in parts], broken)
    if line.adapts:
        for part in result.parts:
            states = [decision.state for decision in part.plan.decisions]
            clipper.memories.remember(part.key, part.owners, states, part.measure)
    if line.carries:
        clipper.carried |= settle()
    return reads


def decided(clipper: Runs, column: Column, found: Read, broken: Operand, step: Step, engine: Engine) -> Part:
    """A sweep that was measured, decided."""
    line, sweep, gradients, shapes, measure = clipper.line, column.sweep, found.gradients, found.shapes, found.measure
    lifted = sweep.keeps_rows and measure.xp is SCALARS
    if lifted:
        measure = engine.in_arrays(measure)
    segments, owners = column.segments(shapes, gradients), column.owners(shapes, gradients, clipper.memories)
    states = clipper.memories.states_of(column.key, owners, measure) if line.adapts else column.blank
    divisor = gradients.divisor
    given = numbers_of(gradients, measure) if gradients.given else NOTHING
    terms = Terms(line.policy, step, divisor, given, broken, gradients.across)
    decide = decide_quietly if isinstance(measure.total, np.ndarray) else decide_sweep
    plan = decide(measure, sweep.stages, segments, states, terms, found.weights)
    if lifted:
        plan = plan._replace(coefficient=plan.coefficient.item())
    return Part(
        column.key, sweep, gradients.name, shapes, divisor, measure, plan, segments, owners, found.each, column.indices
    )
