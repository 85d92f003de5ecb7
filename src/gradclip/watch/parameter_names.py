"""The names of an optimizer's parameters, though nobody gave us the model: modules that hold them are looked for."""

from __future__ import annotations

import gc
from collections import Counter
from typing import Any, Protocol

import torch

from gradclip.torch.parameters import unwrapped_name


class HasGroups(Protocol):
    """An optimizer, or what has its parameters in groups as one has."""

    param_groups: list[dict[str, Any]]


def parameters_in(optimizer: HasGroups) -> list[torch.Tensor]:
    """The parameters of all groups."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def parameter_names(optimizer: HasGroups) -> dict[int, str]:
    """The name of each parameter by `id`: that of the outermost module, else its place in the optimizer."""
    parameters = set(map(id, parameters_in(optimizer)))
    found: dict[int, str] = {}
    for number, group in enumerate(optimizer.param_groups):
        places = (f"group {number}, parameter {i}" for i in range(len(group["params"])))
        for parameter, name in zip(group["params"], group.get("param_names") or places, strict=True):
            found[id(parameter)] = name
    for module in outermost_modules():
        found |= {id(p): without_wrappings(name) for name, p in module.named_parameters() if id(p) in parameters}
    return distinct_names(found)


def outermost_modules() -> list[torch.nn.Module]:
    """The modules that there are and that are in no other."""
    # `type(one)`: asking an object itself for its class may run code of the script
    modules = [
        thing for thing in gc.get_objects() if issubclass(type(thing), torch.nn.Module) and "_modules" in vars(thing)
    ]
    inner = {id(child) for module in modules for child in module.children()}
    return [module for module in modules if id(module) not in inner]


def distinct_names(names: dict[int, str]) -> dict[int, str]:
    """The names, with a number behind those that another has already, such as of a second model."""
    counts: Counter[str] = Counter()
    for parameter, name in names.items():
        counts[name] += 1
        names[parameter] = name if counts[name] == 1 else f"{name} ({counts[name]})"
    return names


def without_wrappings(name: str) -> str:
    """The name without what wrappers of the model and of its modules put into it."""
    return unwrapped_name(name).removeprefix("module.")
