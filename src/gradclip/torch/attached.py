"""Which clipper serves which optimizer: each is found inside its wrappers, and attaching twice is attaching once."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from torch.optim import Optimizer

from gradclip.rules.rule import AnyRule, rules_in
from gradclip.rules.scope import Global, Group

if TYPE_CHECKING:
    from gradclip.torch.hook import AttachedClipper

_attached: weakref.WeakKeyDictionary[Optimizer, weakref.ref[AttachedClipper]] = weakref.WeakKeyDictionary()
"""The clipper of each optimizer. Its hooks keep it alive; a strong reference here would keep both for ever."""

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


def clipper_of(optimizer: Optimizer) -> AttachedClipper | None:
    """The clipper that is attached to `optimizer`."""
    known = _attached.get(optimizer)
    return None if known is None else known()


def keep(clipper: AttachedClipper) -> None:
    """Note that `clipper` serves its optimizers from now on."""
    for optimizer in clipper.optimizers:
        _attached[optimizer] = weakref.ref(clipper)


def forget(clipper: AttachedClipper) -> None:
    """Note that `clipper` serves its optimizers no more."""
    for optimizer in clipper.optimizers:
        if clipper_of(optimizer) is clipper:
            del _attached[optimizer]


def already_attached(optimizers: list[Optimizer], rule: AnyRule, options: tuple[Any, ...]) -> AttachedClipper | None:
    """The clipper that serves just these optimizers with just this rule; another one on any of them is refused."""
    for optimizer in optimizers:
        clipper = clipper_of(optimizer)
        if clipper is None:
            continue
        if clipper.optimizers == optimizers and clipper.rule == rule and clipper.options == options:
            return clipper
        raise ValueError(
            f"a clipper is attached to this {type(optimizer).__name__} already ({clipper.rule!r}): "
            "call its detach() first, or give both optimizers to one attach"
        )
    return None


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
    return any(isinstance(one.scope, Global | Group) for one in rules_in(rule))
