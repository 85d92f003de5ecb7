"""What a user may hand over as parameters, made into a list: a module, an optimizer, an iterable, pairs, a dict."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch

from gradclip.errors import GradclipWarning
from gradclip.result import Gradients
from gradclip.verdict import user_level

NeedClip = Callable[[torch.Tensor], bool]


class Parameters(NamedTuple):
    """Parameters in a list, with a name and a group for each; `names` may be shorter, then places stand in."""

    tensors: list[torch.Tensor]
    names: list[str] | None = None
    groups: list[int] | None = None

    def name(self, index: int) -> str:
        return f"parameters[{index}]" if self.names is None else self.names[index]


def parameters_of(source: Any) -> Parameters:
    """The parameters in `source`, materialised; what holds none at all is reported."""
    if isinstance(source, torch.Tensor):
        return Parameters([source])
    if isinstance(source, list) and source and isinstance(source[0], torch.Tensor):
        return Parameters(source)
    if isinstance(source, torch.nn.Module):
        source = source.named_parameters()
    elif isinstance(source, Mapping):
        source = source.items()
    elif isinstance(source, torch.optim.Optimizer) or hasattr(source, "param_groups"):
        return of_optimizers([source])
    return _listed(source, list(_iterated(source)))


def _iterated(source: Any) -> Iterable[Any]:
    if isinstance(source, str) or not isinstance(source, Iterable):
        raise TypeError(
            f"expected parameters, got {type(source).__name__}: give model.parameters(), a module, an optimizer, "
            "a dict of names, or a tensor"
        )
    return source


def _listed(source: Any, items: list[Any]) -> Parameters:
    if not items:
        report_nothing(
            "an exhausted iterator: model.parameters() can be read once, make it a list"
            if isinstance(source, Iterator)
            else "no parameters at all"
        )
    named = bool(items) and isinstance(items[0], tuple)
    names = [str(item[0]) for item in items] if named else None
    return Parameters([item[1] for item in items] if named else items, names)


def of_optimizers(optimizers: list[torch.optim.Optimizer], model: torch.nn.Module | None = None) -> Parameters:
    """The parameters of optimizers that are to be clipped, with their groups; `need_clip` is a key of a group."""
    known = {} if model is None else {id(parameter): name for name, parameter in model.named_parameters()}
    tensors: list[torch.Tensor] = []
    names: list[str] = []
    groups: list[int] = []
    every = [group for optimizer in optimizers for group in optimizer.param_groups]
    for number, group in enumerate(every):
        if not group.get("need_clip", True):
            continue
        own = group.get("param_names") or [f"group {number}, parameter {i}" for i in range(len(group["params"]))]
        tensors += group["params"]
        names += [known.get(id(tensor), name) for tensor, name in zip(group["params"], own, strict=True)]
        groups += [number] * len(group["params"])
    return Parameters(tensors, names, groups)


def gradients_of(parameters: Parameters, need_clip: NeedClip | None = None, divisor: Any = 1.0) -> Gradients:
    """The gradients to clip: of the parameters that have one and that need clipping, each parameter once."""
    tensors = parameters.tensors
    found = found_in(tensors)
    if need_clip is None and len(found) == len(tensors):
        return Gradients(found, parameters.name, parameters.groups, lambda: tensors, divisor)
    kept = [
        i
        for i, p in enumerate(tensors)
        if p.grad is not None and getattr(p, "need_clip", True) and (need_clip is None or need_clip(p))
    ]
    return Gradients([p.grad for p in tensors], parameters.name, parameters.groups, lambda: tensors, divisor).only(kept)


def found_in(parameters: list[torch.Tensor]) -> list[torch.Tensor]:
    """The gradients of the parameters that have one and do not say `need_clip=False`."""
    try:
        return [g for p in parameters if (g := p.grad) is not None and getattr(p, "need_clip", True)]
    except AttributeError:
        wrong = next(p for p in parameters if not isinstance(p, torch.Tensor))
        place = next(i for i, p in enumerate(parameters) if p is wrong)
        raise TypeError(f"parameters[{place}] is a {type(wrong).__name__}, not a torch.Tensor") from None


def report_nothing(what: str) -> None:
    """Say that there is nothing to clip."""
    warnings.warn(f"nothing is clipped: {what}", GradclipWarning, stacklevel=user_level())
