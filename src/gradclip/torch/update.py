"""The rule on the update that an optimizer has made, instead of on the gradients that it makes it from."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.optim import Optimizer

from gradclip.engines.torch_layout import VALUES
from gradclip.step.gradients import is_needed
from gradclip.step.layout import LineUp
from gradclip.torch.clipper import Clipper
from gradclip.torch.parameters import NeedClip, TorchParameters, here_of, of_optimizers

PLACES = ("gradient", "update")


class Before(NamedTuple):
    """The parameters that a step may move, and their values before it, as far as they are in this process."""

    parameters: TorchParameters
    values: list[torch.Tensor]


def values_before(optimizer: Optimizer, model: torch.nn.Module | None, need_clip: NeedClip | None) -> Before:
    """What the step of `optimizer` starts from; what needs no clipping is left out."""
    every = of_optimizers([optimizer], model)
    kept = [i for i, p in enumerate(every.tensors) if getattr(p, "need_clip", True) and is_needed(need_clip, p)]
    chosen = every.only(kept)
    return Before(chosen, [here_of(p).detach().clone() for p in chosen.tensors])


@torch.no_grad()
def clip_update(clipper: Clipper, before: Before) -> None:
    """`p <- p_old + clip(p - p_old)` for each parameter; elements whose update is not changed keep their bits."""
    parameters, old = before.parameters, before.values
    here = list(map(here_of, parameters.tensors))
    moved = [VALUES.wide(p, i) for i, p in enumerate(here)]
    updates = [new - VALUES.wide(value, i) for i, (new, value) in enumerate(zip(moved, old, strict=True))]
    clipped = [update.clone() for update in updates]
    gradients = clipper.updates_of(parameters, clipped, old)
    engine = clipper.engine_for(gradients)
    clipper.clip_gradients(gradients, engine)
    for p, value, update, clipped_update in zip(here, old, updates, clipped, strict=True):
        changed = clipped_update != update
        if engine.waits or changed.any():
            p.copy_(torch.where(changed, value + clipped_update, p))


def refuse_for_updates(optimizers: list[Optimizer], line: LineUp, on_nonfinite: str, through_grad_scale: bool) -> None:
    """Refuse what cannot be done once an optimizer has stepped."""
    if len(optimizers) > 1 or isinstance(optimizers[0], torch.optim.LBFGS):
        raise ValueError(
            'place="update" clips what one step of one optimizer has moved: not LBFGS, which searches along its own '
            "updates, and several optimizers each with a clipper of their own"
        )
    if line.can_skip or line.can_raise:
        raise ValueError(
            'place="update" comes after the step, when the memory of the optimizer has moved, and '
            f"{line.rule!r} with on_nonfinite={on_nonfinite!r} may skip or refuse the step: place such a "
            'rule on the gradients, or use on_nonfinite="zero", which leaves out non-finite updates'
        )
    if line.reads_given or line.reads_moments or through_grad_scale:
        raise ValueError(
            f"{line.rule!r} reads the loss or the second moments, or hands its coefficient to the step: "
            'that is for place="gradient"'
        )
