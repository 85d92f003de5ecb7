"""The optimizers that a user hands over: found inside their wrappers, and refused where they step inside backward."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

from torch.optim import Optimizer

from gradclip.rules.rule import AnyRule, rules_in
from gradclip.rules.scope import Global, Group

STEP_IN_BACKWARD = (
    "this optimizer steps inside backward(), one parameter at a time, so a norm over several tensors does not exist "
    "there: clip each tensor, ClipGradByNorm(...), or step after backward()"
)

HOOKED = "wrapper"
"""The function that PyTorch puts around a step to run its hooks."""
DEEPEST = 6
"""Calls between the step of a class and that of its base."""
BY_HAND = "clip by hand, gradclip.torch.Clipper(rule).clip_(optimizer) between backward() and step()"


def inside(optimizer: Any) -> Optimizer | None:
    """The PyTorch optimizer that makes the update: inside a wrapper such as accelerate's, whose own hooks never fire,
    or inside an optimizer that steps by another one, as SAM and Lookahead do; None without one."""
    seen: set[int] = set()
    while id(optimizer) not in seen:
        seen.add(id(optimizer))
        inner = _held(optimizer)
        if len(inner) > 1:
            names = " and ".join(f".{name}" for name in inner)
            raise ValueError(
                f"this {type(optimizer).__name__} holds several optimizers ({names}): attach to those that step"
            )
        if not inner:
            break
        (optimizer,) = inner.values()
    return optimizer if isinstance(optimizer, Optimizer) else None


def _held(optimizer: Any) -> dict[str, Any]:
    """What steps for an optimizer, or a wrapper, by the name of its attribute: it has all the same parameters.

    One that has a part of them, as in ZeroRedundancyOptimizer, is no place for a norm over all.
    """
    if not isinstance(optimizer, Optimizer):
        if hasattr(optimizer, "optimizer"):
            return {"optimizer": optimizer.optimizer}
        return dict(_optimizers_in(getattr(optimizer, "__dict__", {})))
    found = {id(inner): (name, inner) for name, inner in _optimizers_in(vars(optimizer))}
    mine = _parameters(optimizer)
    return {name: inner for name, inner in found.values() if _parameters(inner) == mine}


def _optimizers_in(attributes: Mapping[str, Any]) -> Iterator[tuple[str, Optimizer]]:
    """The optimizers among attributes, and those in lists, tuples and dicts among them."""
    for name, value in attributes.items():
        if isinstance(value, Optimizer):
            yield name, value
        elif isinstance(value, dict | list | tuple):
            parts = value.items() if isinstance(value, dict) else enumerate(value)
            yield from ((f"{name}[{key!r}]", part) for key, part in parts if isinstance(part, Optimizer))


def _parameters(optimizer: Optimizer) -> set[int]:
    return {id(parameter) for group in getattr(optimizer, "param_groups", ()) for parameter in group["params"]}


def unwrapped(optimizer: Any) -> Optimizer:
    """The PyTorch optimizer that makes the update of `optimizer`; what has none, or hears no hook, is refused."""
    if (found := inside(optimizer)) is None:
        raise TypeError(
            f"expected a torch.optim.Optimizer or a wrapper with an .optimizer, got {type(optimizer).__name__}"
        )
    name = type(found).__name__
    if not hasattr(found, "_optimizer_step_pre_hooks") or not getattr(type(found).step, "hooked", False):
        raise TypeError(
            f"{name} never calls torch.optim.Optimizer.__init__, so no hook of its steps runs and nothing would be "
            f"clipped: {BY_HAND}"
        )
    if not _runs_hooks(found):
        raise TypeError(
            f"the step of this {name} was replaced by a function that does not call the class's own, so no hook "
            f"of it runs and nothing would be clipped: {BY_HAND}"
        )
    return found


def _runs_hooks(optimizer: Optimizer) -> bool:
    """Whether calling `optimizer.step` comes to that of its class, which runs the hooks.

    Schedulers and trainers put a function on the instance that calls what was there: it is looked for among what such
    a function wraps, is bound to or encloses.
    """
    waiting: list[Any] = [vars(optimizer).get("step", type(optimizer).step)]
    seen: set[int] = set()
    while waiting:
        function = waiting.pop()
        if id(function) in seen:
            continue
        seen.add(id(function))
        if getattr(function, "hooked", False):
            return True
        cells = getattr(function, "__closure__", None) or ()
        waiting += [getattr(function, name, None) for name in ("__func__", "__wrapped__", "__self__", "func")]
        waiting += [cell.cell_contents for cell in cells if _is_full(cell)]
    return False


def _is_full(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


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


def is_nested(optimizer: Optimizer) -> bool:
    """Whether the step whose hooks run was called by another step of the same optimizer, whose hooks have run.

    That is so where the step of a class calls that of its base, and PyTorch has put hooks around both.
    """
    frame = sys._getframe(1)
    while frame is not None and frame.f_code.co_name != HOOKED:
        frame = frame.f_back  # type: ignore[assignment]
    hooked, depth = frame, 0
    while frame is not None and depth < DEEPEST:
        frame, depth = frame.f_back, depth + 1  # type: ignore[assignment]
        if frame is not None and frame.f_code is hooked.f_code:
            arguments = frame.f_locals.get("args", ())
            return bool(arguments) and arguments[0] is optimizer
    return False
