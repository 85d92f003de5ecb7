"""The names of an optimizer's parameters, though nobody gave us the model: modules that hold them are looked for."""

from __future__ import annotations

import gc
from collections import Counter

import torch
from torch.optim import Optimizer

WRAPPINGS = ("_orig_mod.", "module.")
"""What `torch.compile` and data parallelism put before a name."""


def names_of(optimizer: Optimizer) -> dict[int, str]:
    """The name of each parameter by `id`: that of the outermost module, else its place in the optimizer."""
    own = {id(p) for group in optimizer.param_groups for p in group["params"]}
    found: dict[int, str] = {}
    for number, group in enumerate(optimizer.param_groups):
        places = (f"group {number}, parameter {i}" for i in range(len(group["params"])))
        for parameter, name in zip(group["params"], group.get("param_names") or places, strict=True):
            found[id(parameter)] = name
    # `type(one)`: asking an object itself for its class may run code of the script
    modules = [one for one in gc.get_objects() if issubclass(type(one), torch.nn.Module) and "_modules" in vars(one)]
    inner = {id(child) for module in modules for child in module.children()}
    for module in modules:
        if id(module) not in inner:
            found |= {id(p): plain(name) for name, p in module.named_parameters() if id(p) in own}
    return distinct(found)


def distinct(names: dict[int, str]) -> dict[int, str]:
    """The names, with a number behind those that another has already, such as of a second model."""
    seen: Counter[str] = Counter()
    for parameter, name in names.items():
        seen[name] += 1
        names[parameter] = name if seen[name] == 1 else f"{name} ({seen[name]})"
    return names


def plain(name: str) -> str:
    """The name without what wrappers of the model put before it."""
    for wrapping in WRAPPINGS:
        name = name.removeprefix(wrapping)
    return name
