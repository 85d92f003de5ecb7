"""Gradients in units of the optimizer's second moments: for thresholds that are another number for each element."""

from __future__ import annotations

import math
from collections.abc import Callable

from gradclip.engines.base import Engine, Gradient
from gradclip.rules.arrays import Operand
from gradclip.step.gradients import Gradients


def over_moments(gradients: Gradients, factor: float, engine: Engine) -> tuple[list[Gradient], Callable[[], None]]:
    """New tensors with `g / sqrt(factor v)`, and what writes to the gradients what has become of these.

    v is the second moment of each element, `moments()` of the gradients. Where it is not above 0, or not known yet, the
    quotient is 0 unless the element is non-finite; so it is not clipped. Elements whose quotient stays are not changed.
    """
    assert gradients.moments is not None
    values = engine.values
    every, moments = gradients.tensors, gradients.moments()
    found = [values.wide(tensor, index) for index, tensor in enumerate(every)]
    here = [index for index, value in enumerate(found) if value is not None]
    wide = [found[index] for index in here]
    limits = [_limit(engine, moments[index], g) * factor**0.5 for index, g in zip(here, wide, strict=True)]
    limits = [limit * gradients.divisor for limit in limits]
    open_ = [values.where(limit > 0.0, limit, values.zeros(limit) + math.inf) for limit in limits]
    quotients = [g / _roomy(engine, limit, g) for g, limit in zip(wide, open_, strict=True)]
    tensors = list(every)
    for index, quotient in zip(here, quotients, strict=True):
        tensors[index] = values.tensor(quotient, every[index])

    def write() -> None:
        for index, g, limit, quotient in zip(here, wide, limits, quotients, strict=True):
            gradient, after = every[index], values.wide(tensors[index], 0)
            changed = (after != quotient) & (after == after)
            if engine.waits or changed.any():
                values.put_(gradient, values.tensor(values.where(changed, after * limit, g), gradient))

    return tensors, write


def _roomy(engine: Engine, limit: Operand, g: Operand) -> Operand:
    """`limit`, but so large that no finite number over it leaves the range of its type."""
    where = engine.values.where
    size = where(g < 0.0, -g, g)
    least = where(size < math.inf, size * 2.0**-100, engine.values.zeros(size))
    return where(limit < least, least, limit)


def _limit(engine: Engine, moment: Operand, like: Operand) -> Operand:
    """The root of a second moment, zeros where there is none."""
    if moment is None:
        return engine.values.zeros(like)
    return engine.values.beside(moment, like) ** 0.5
