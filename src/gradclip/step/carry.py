"""Carrying over: what a rule takes away from the gradients of one step is added to those of a later one."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gradclip.engines.base import Engine, Gradient, UnsupportedGradient, Values
from gradclip.rules.arrays import Operand
from gradclip.step.gradients import Gradients, refused
from gradclip.step.nonfinite import any_nonfinite
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
    try:
        every = [values.wide(tensor, index) for index, tensor in enumerate(gradients.tensors)]
    except UnsupportedGradient as error:
        raise refused(gradients, error) from None
    here = [index for index, value in enumerate(every) if value is not None]
    arriving, names = [every[index] for index in here], [gradients.name(index) for index in here]

    def standing_for(found: list[Operand]) -> list[Gradient]:
        tensors = list(gradients.tensors)
        for index, value in zip(here, found, strict=True):
            tensors[index] = values.tensor(value, tensors[index])
        return tensors

    before = [_known(values, carried.get(name), g, name) for name, g in zip(names, arriving, strict=True)]
    sums = [g + rest * divisor for g, rest in zip(arriving, before, strict=True)]
    stays, xp = any_nonfinite(engine.gather(standing_for(sums)), engine)
    sums = [values.where(stays, g, value) for g, value in zip(arriving, sums, strict=True)]
    clipped = standing_for(sums)

    def settle() -> dict[str, Operand]:
        if not engine.waits and result.skipped:
            return {}
        waits = stays
        for flag in result.skip_flags() if engine.waits else []:
            waits = xp.either(waits, flag)
        for index in here:
            values.put_(gradients.tensors[index], clipped[index])
        after = [values.wide(gradients.tensors[index], index) for index in here]
        left = [(total - u) / divisor for total, u in zip(sums, after, strict=True)]
        return {name: values.where(waits, *pair) for name, *pair in zip(names, before, left, strict=True)}

    return gradients._replace(tensors=clipped), settle


def _known(values: Values, carried: Operand, gradient: Operand, name: str) -> Operand:
    """What is carried for one tensor; zeros at first."""
    if carried is not None and tuple(carried.shape) != tuple(gradient.shape):
        raise ValueError(
            f"what is carried over for {name!r} has the shape {tuple(carried.shape)}, and its gradient "
            f"{tuple(gradient.shape)}: use one clipper for each model"
        )
    return values.zeros(gradient) if carried is None else values.beside(carried, gradient)
