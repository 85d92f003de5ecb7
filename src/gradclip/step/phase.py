"""A phase of a rule: what it refuses before anything is written, and each of its sweeps, measured and decided."""

from __future__ import annotations

from typing import Any

from gradclip.engines.base import Engine, UnsupportedGradient
from gradclip.rules.arrays import SCALARS
from gradclip.rules.scope import Row
from gradclip.rules.sweep import Phase, Sweep
from gradclip.rules.threshold import SecondMoment
from gradclip.step.decide import decide_sweep
from gradclip.step.elements import clamped
from gradclip.step.gradients import Gradients, gathered, refused
from gradclip.step.part import ALIKE, Part
from gradclip.step.work import (
    Terms,
    Work,
    apart,
    columns_of,
    measured,
    numbers_of,
    recalled,
    segments_of,
    weights_of,
)


def works_of(number: int, phase: Phase, gradients: Gradients, engine: Engine, whole: Any, terms: Terms) -> list[Work]:
    """Each sweep of a phase, measured and decided; only the fused clamp writes, and only where none can refuse.

    `whole` is the batch of all gradients, if nothing was written since it was gathered.
    """
    works: list[Work] = []
    for column, sweep, own in columns_of(phase, gradients):
        if own.across is not None:
            sweep = apart(sweep)
        batch = whole if own is gradients and whole is not None else gathered(engine, own)
        decided = clamped if sweep.elementwise else rescaled
        try:
            works.append(decided((number, column), sweep, own, engine, batch, terms))
        except UnsupportedGradient as error:
            raise refused(own, error) from None
    return works


def rescaled(key: tuple[int, int], sweep: Sweep, own: Gradients, engine: Engine, batch: Any, terms: Terms) -> Work:
    """A sweep of rescaling stages: one measure, then one decision a stage."""
    measure, each = measured(engine, batch, sweep, len(own.tensors) if terms.tensors else 0)
    lifted = sweep.keeps_rows and measure.xp is SCALARS
    measure = engine.in_arrays(measure) if lifted else measure  # type: ignore[attr-defined]
    shapes = engine.shapes(batch, sweep.leaf) if sweep.reads_shapes else ()
    parts = segments_of(sweep, shapes, own) if shapes else [ALIKE] * len(sweep.stages)
    owners, states = recalled(key, sweep, own, shapes, measure, terms)
    plan = decide_sweep(
        measure,
        sweep.stages,
        parts,
        states,
        on_nonfinite=terms.on_nonfinite,
        step=terms.step,
        divisor=own.divisor,
        weights=weights_of(sweep, own, engine, shapes) if sweep.reads_weights else None,
        across=own.across,
        given=numbers_of(own, measure),
        broken=own.broken,
    )
    if lifted:
        plan = plan._replace(coefficient=plan.coefficient.item())
    part = Part(key, sweep, own.name, shapes, own.divisor, measure, plan, parts, owners, each)
    return Work(part, batch, False)


def refuse_unfit(phase: Phase, gradients: Gradients, engine: Engine) -> None:
    """Refuse now what a phase would refuse after something was written: no order, no axis of rows, sparse ones."""
    for _, sweep, own in columns_of(phase, gradients):
        if sweep.elementwise or isinstance(sweep.leaf, Row):
            batch = gathered(engine, own)
            try:
                if isinstance(sweep.stages[0].threshold, SecondMoment):
                    for index, tensor in enumerate(own.tensors):
                        engine.values.wide(tensor, index)
                if sweep.elementwise:
                    engine.refuse_unordered(batch)
                else:
                    engine.shapes(batch, sweep.leaf)
            except UnsupportedGradient as error:
                raise refused(own, error) from None
