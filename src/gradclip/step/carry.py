"""Carrying over: what a rule takes away from the gradients of one step is added to those of a later one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from gradclip.engines.base import Engine, Values
from gradclip.rules.arrays import Array, ArrayFunctions
from gradclip.rules.norm import Linf
from gradclip.rules.scope import Global
from gradclip.step.gradients import Gradients
from gradclip.step.result import Result


def clip_carrying(
    clip: Callable[[Gradients], None], result: Result, gradients: Gradients, engine: Engine, carried: Mapping[str, Any]
) -> dict[str, Any]:
    """`u = clip(g + carried)` in place of each gradient g; what is carried on is `g + carried - u`.

    What is carried has the unit of the gradient without a loss scale, and the name of its tensor. Where an element of
    `g + carried` is non-finite, the whole step is clipped without what is carried, and that stays as it was; so it does
    where the step is skipped. Nothing is written before `clip` returns, which may raise.
    """
    if gradients.across is not None:
        raise ValueError("processes that share gradients cannot carry over: use a rule without UClip there")
    values, divisor = engine.values, gradients.divisor
    names = [gradients.name(index) for index in range(len(gradients.tensors))]
    alone = [values.wide(tensor, index) for index, tensor in enumerate(gradients.tensors)]
    before = [_known(values, carried.get(name), own, name) for name, own in zip(names, alone, strict=True)]
    whole = [own + rest * divisor for own, rest in zip(alone, before, strict=True)]
    stays, xp = _nonfinite(engine, [values.tensor(value) for value in whole])
    whole = [values.where(stays, own, value) for own, value in zip(alone, whole, strict=True)]
    clipped = [values.tensor(value) for value in whole]
    clip(gradients._replace(tensors=clipped))
    if not engine.waits and result.skipped:
        return {}
    for flag in result.skip_flags() if engine.waits else []:
        stays = xp.either(stays, flag)
    for gradient, own in zip(gradients.tensors, clipped, strict=True):
        values.put_(gradient, own)
    left = [(w - values.wide(g, i)) / divisor for i, (w, g) in enumerate(zip(whole, gradients.tensors, strict=True))]
    return {name: values.where(stays, *pair) for name, *pair in zip(names, before, left, strict=True)}


def _known(values: Values, carried: Any, own: Any, name: str) -> Any:
    """What is carried for one tensor; zeros at first."""
    if carried is not None and tuple(carried.shape) != tuple(own.shape):
        raise ValueError(
            f"what is carried over for {name!r} has the shape {tuple(carried.shape)}, and its gradient "
            f"{tuple(own.shape)}: use one clipper for each model"
        )
    return values.zeros(own) if carried is None else values.beside(carried, own)


def _nonfinite(engine: Engine, tensors: list[Any]) -> tuple[Array, ArrayFunctions]:
    """Whether any element is non-finite, where it was measured."""
    measure = engine.measure(engine.gather(tensors), Global(), Linf())
    return measure.xp.any(measure.nonfinite > 0), measure.xp
