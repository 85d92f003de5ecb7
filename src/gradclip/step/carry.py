"""Carrying over: what a rule takes away from the gradients of one step is added to those of a later one."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gradclip.engines.base import Engine, Gradient, UnsupportedGradient, Values
from gradclip.rules.arrays import Array, ArrayFunctions, Operand
from gradclip.rules.norm import Linf
from gradclip.rules.scope import Global
from gradclip.step.gradients import Gradients, refused
from gradclip.step.result import Result


def carry(
    gradients: Gradients, result: Result, engine: Engine, carried: Mapping[str, Operand]
) -> tuple[Gradients, Callable[[], dict[str, Operand]]]:
    """What to clip instead of each gradient g, `g + carried`; and what to call then with the clipped u in its place.

    That writes u over g, and gives what is carried on, `g + carried - u`, in the unit of the gradient without a loss
    scale, by the name of its tensor. Where an element of `g + carried` is non-finite, the whole step is clipped without
    what is carried, and that stays as it was; so it does where the step is skipped.
    """
    if gradients.across is not None:
        raise ValueError("processes that share gradients cannot carry over: use a rule without UClip there")
    values, divisor = engine.values, gradients.divisor
    names = gradients.names()
    try:
        alone = [values.wide(tensor, index) for index, tensor in enumerate(gradients.tensors)]
    except UnsupportedGradient as error:
        raise refused(gradients, error) from None
    before = [_known(values, carried.get(name), own, name) for name, own in zip(names, alone, strict=True)]
    whole = [own + rest * divisor for own, rest in zip(alone, before, strict=True)]
    stays, xp = _nonfinite(engine, [values.tensor(value) for value in whole])
    whole = [values.where(stays, own, value) for own, value in zip(alone, whole, strict=True)]
    clipped = [values.tensor(value) for value in whole]

    def settle() -> dict[str, Operand]:
        if not engine.waits and result.skipped:
            return {}
        waits = stays
        for flag in result.skip_flags() if engine.waits else []:
            waits = xp.either(waits, flag)
        for gradient, own in zip(gradients.tensors, clipped, strict=True):
            values.put_(gradient, own)
        after = [values.wide(gradient, index) for index, gradient in enumerate(gradients.tensors)]
        left = [(one - own) / divisor for one, own in zip(whole, after, strict=True)]
        return {name: values.where(waits, *pair) for name, *pair in zip(names, before, left, strict=True)}

    return gradients._replace(tensors=clipped), settle


def _known(values: Values, carried: Operand, own: Operand, name: str) -> Operand:
    """What is carried for one tensor; zeros at first."""
    if carried is not None and tuple(carried.shape) != tuple(own.shape):
        raise ValueError(
            f"what is carried over for {name!r} has the shape {tuple(carried.shape)}, and its gradient "
            f"{tuple(own.shape)}: use one clipper for each model"
        )
    return values.zeros(own) if carried is None else values.beside(carried, own)


def _nonfinite(engine: Engine, tensors: list[Gradient]) -> tuple[Array, ArrayFunctions]:
    """Whether any element is non-finite, where it was measured."""
    measure = engine.measure(engine.gather(tensors), Global(), Linf())
    return measure.xp.any(measure.nonfinite > 0), measure.xp
