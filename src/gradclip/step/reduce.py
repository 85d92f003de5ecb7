"""Reducing: what this process measured becomes what all have, where the parts of gradients are in several processes.

All sweeps of a phase go in one call, with the weights that they read: an engine makes one message of it for each set of
processes.
"""

from __future__ import annotations

from collections.abc import Sequence

from gradclip.engines.base import Engine, Measured, PartRefused
from gradclip.rules.scope import Tensor
from gradclip.step.gradients import refused
from gradclip.step.layout import Column
from gradclip.step.measure import Read, together


def reduced(founds: Sequence[Read], columns: Sequence[Column], engine: Engine) -> list[Read]:
    """What was read for the sweeps of a phase, as all processes have it."""
    pairs = list(zip(founds, columns, strict=True))
    asked = [n for n, (found, column) in enumerate(pairs) if engine.needs_others(found.batch, column.sweep.leaf)]
    parts = [(n, part) for n in asked for part in _parts(*pairs[n])]
    if not parts:
        return list(founds)
    try:
        answers = iter(engine.reduce([part for _, part in parts]))
    except PartRefused as error:
        raise refused(founds[parts[error.place][0]].gradients, error) from None
    whole = list(founds)
    for n in asked:
        found, column = pairs[n]
        measure = next(answers)
        if found.each is None:
            whole[n] = found._replace(measure=measure, weights=None if found.weights is None else next(answers))
        else:
            of_all = together(engine, measure, column.sweep, len(found.gradients.tensors))
            whole[n] = found._replace(measure=of_all, each=measure)
    return whole


def _parts(found: Read, column: Column) -> list[Measured]:
    """What there is to reduce of a sweep: the measure of the gradients, and that of the weights."""
    sweep = column.sweep
    leaf = sweep.leaf if found.each is None else Tensor()
    parts = [Measured(found.batch, leaf, sweep.norm, found.measure)]
    if found.weights is not None:
        parts.append(Measured(found.weight_batch, leaf, sweep.norm, found.weights))
    return parts
