"""The optimizers that a user hands over: found inside their wrappers, and refused where they step inside backward."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer

from gradclip.rules.rule import AnyRule, rules_in
from gradclip.rules.scope import Global, Group

STEP_IN_BACKWARD = (
    "this optimizer steps inside backward(), one parameter at a time, so a norm over several tensors does not exist "
    "there: clip each tensor, ClipGradByNorm(...), or step after backward()"
)


def inside(optimizer: Any) -> Optimizer | None:
    """The PyTorch optimizer inside a wrapper such as accelerate's, whose own hooks never fire; None without one."""
    while not (isinstance(optimizer, Optimizer) and hasattr(optimizer, "_optimizer_step_pre_hooks")):
        if not hasattr(optimizer, "optimizer"):
            return None
        optimizer = optimizer.optimizer
    return optimizer


def unwrapped(optimizer: Any) -> Optimizer:
    """The PyTorch optimizer inside `optimizer`; what has none is refused."""
    if (found := inside(optimizer)) is None:
        raise TypeError(
            f"expected a torch.optim.Optimizer or a wrapper with an .optimizer, got {type(optimizer).__name__}"
        )
    return found


def refuse_step_in_backward(optimizers: list[Optimizer], rule: AnyRule) -> None:
    """An optimizer that steps inside backward sees one gradient at a time, so no norm over several exists."""
    in_backward = any(
        hasattr(parameter, "_in_backward_optimizers")
        for optimizer in optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
    )
    if in_backward and spans_tensors(rule):
        raise ValueError(f"{STEP_IN_BACKWARD} ({rule!r})")


def spans_tensors(rule: AnyRule) -> bool:
    """Whether a part of `rule` takes one norm over several tensors."""
    return any(isinstance(single.scope, Global | Group) for single in rules_in(rule))
