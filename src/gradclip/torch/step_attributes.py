"""Attributes set on a fused optimizer until its step is over: a coefficient as `grad_scale`, a skip as `found_inf`."""

from __future__ import annotations

import torch
from torch.optim import Optimizer

from gradclip.rules.rule import AnyRule, Carry
from gradclip.rules.scope import Global
from gradclip.rules.sweep import Phase

MISSING = object()


class StepAttributes:
    """The attributes that are set on optimizers, with what they were before."""

    def __init__(self) -> None:
        self._each: list[tuple[Optimizer, str, object, torch.Tensor]] = []

    def set(self, optimizer: Optimizer, name: str, value: torch.Tensor) -> None:
        """Set an attribute that the fused step reads, until the step is over."""
        self._each.append((optimizer, name, getattr(optimizer, name, MISSING), value))
        setattr(optimizer, name, value)

    def restore(self) -> None:
        """Restore what they were; also before a step, because one that raised never came to its end."""
        while self._each:
            owner, name, before, value = self._each.pop()
            if getattr(owner, name, None) is not value:
                continue  # somebody set it anew, such as GradScaler for the next step
            if before is MISSING:
                delattr(owner, name)
            else:
                setattr(owner, name, before)


def refuse_through(optimizers: list[Optimizer], phases: tuple[Phase, ...], rule: AnyRule, zeroes: bool) -> None:
    """Refuse to set a coefficient where there is more than one, or where it may be 0: the optimizer divides by it."""
    if isinstance(rule, Carry):
        raise ValueError("through_grad_scale writes no gradient, and UClip must know what it left of each")
    sweep = phases[0].sweeps[0] if len(phases) == 1 and phases[0].names is None else None
    if sweep is None or not isinstance(sweep.leaf, Global):
        raise ValueError(f"through_grad_scale hands over one coefficient, so it needs one global rule, not {rule!r}")
    if zeroes:
        raise ValueError("through_grad_scale cannot write zeros: take another response or on_nonfinite, or scale here")
    if len(optimizers) > 1 or not getattr(optimizers[0], "_step_supports_amp_scaling", False):
        raise ValueError("through_grad_scale needs one fused optimizer: torch.optim.AdamW(..., fused=True)")
