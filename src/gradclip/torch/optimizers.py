"""The optimizers that a user hands over: found inside their wrappers, and refused where they step inside backward."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch.optim import Optimizer

from gradclip.rules.rule import AnyRule, rules_in
from gradclip.rules.scope import Global, Group
from gradclip.torch.base_step import calls_its_base, codes_of, stepping

STEP_IN_BACKWARD = (
    "this optimizer steps inside backward(), one parameter at a time, so a norm over several tensors does not exist "
    "there: clip each tensor, ClipGradByNorm(...), or step after backward()"
)

BY_HAND = "clip by hand, gradclip.torch.Clipper(rule).clip_(optimizer) between backward() and step()"


OWN_CLIPPING = {
    "deepspeed": 'give "gradient_clipping": 1.0 in the DeepSpeed config, which it divides among the processes itself',
    "megatron": "give --clip-grad 1.0, or clip_grad of the OptimizerConfig, which it reduces over its groups itself",
}
"""Libraries whose optimizers step on flat parts of the parameters, of which no clip from outside knows the norm."""


def refuse_own_clipping(optimizer: Any) -> None:
    """Raise for an optimizer, or an engine, that clips by its own norm and lets nobody else."""
    modules = type(optimizer).__module__.split(".")  # of accelerate's wrapper for DeepSpeed, too
    library = next((name for name in OWN_CLIPPING if name in modules), None)
    if library is not None:
        raise TypeError(
            f"{type(optimizer).__name__} of {library} owns the step and keeps each process's gradients in flat parts: "
            f"{OWN_CLIPPING[library]}; gradclip watch and doctor still show what it does"
        )


def inside(optimizer: Any) -> Optimizer | None:
    """The PyTorch optimizer that makes the update: inside a wrapper such as accelerate's, whose own hooks never fire,
    or inside an optimizer that steps by another one, as SAM and Lookahead do; None without one."""
    seen: set[int] = set()
    while id(optimizer) not in seen:
        seen.add(id(optimizer))
        refuse_own_clipping(optimizer)
        inner = _held(optimizer)
        if len(inner) > 1:
            names = " and ".join(f".{name}" for name in inner)
            raise ValueError(
                f"this {type(optimizer).__name__} holds several optimizers ({names}): attach to those that step"
            )
        if not inner:
            break
        if isinstance(optimizer, Optimizer) and calls_its_base(type(optimizer)):
            (name,) = inner
            raise ValueError(
                f"this {type(optimizer).__name__} steps by the step of its base and by the optimizer in .{name}, and "
                f"one clip cannot come before both: {BY_HAND}"
            )
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
    inner = {id(one): (name, one) for name, one in _optimizers_in(vars(optimizer))}
    mine = parameter_ids(optimizer)
    whole = {name: one for name, one in inner.values() if parameter_ids(one) == mine}
    return {name: one for name, one in whole.items() if _steps_by(type(optimizer), name)}


def _steps_by(kind: type, name: str) -> bool:
    """Whether a method of the class has the attribute and a step in it; one without a step of its own may by any."""
    attribute = name.partition("[")[0].lstrip("_")
    if not stepping(kind):
        return True
    methods = [method for one in kind.__mro__ if one not in (Optimizer, object) for method in vars(one).values()]
    words = [{word.lstrip("_") for code in codes_of(method) for word in code.co_names} for method in methods]
    return any({attribute, "step"} <= found for found in words)


def _optimizers_in(attributes: Mapping[str, Any]) -> Iterator[tuple[str, Optimizer]]:
    """The optimizers among attributes, and those in lists, tuples and dicts among them."""
    for name, value in attributes.items():
        if isinstance(value, Optimizer):
            yield name, value
        elif isinstance(value, dict | list | tuple):
            parts = value.items() if isinstance(value, dict) else enumerate(value)
            yield from ((f"{name}[{key!r}]", part) for key, part in parts if isinstance(part, Optimizer))


def parameter_ids(optimizer: Optimizer) -> set[int]:
    """The parameters of an optimizer, by `id`."""
    return {id(parameter) for group in getattr(optimizer, "param_groups", ()) for parameter in group["params"]}


def unwrapped(optimizer: Any) -> Optimizer:
    """The PyTorch optimizer that makes the update of `optimizer`; what has none, or hears no hook, is refused."""
    if (found := inside(optimizer)) is None:
        raise TypeError(
            f"expected a torch.optim.Optimizer or a wrapper with an .optimizer, got {type(optimizer).__name__}: attach "
            "to the optimizer in it"
        )
    name = type(found).__name__
    if not hasattr(found, "_optimizer_step_pre_hooks") or not getattr(type(found).step, "hooked", False):
        raise TypeError(
            f"{name} never calls torch.optim.Optimizer.__init__, or its step was replaced in the class, so no hook of "
            f"its steps runs and nothing would be clipped: {BY_HAND}"
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
        waiting += getattr(function, "__defaults__", None) or ()
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
