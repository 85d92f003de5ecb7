"""What a user may hand over as parameters, made into a list: a module, an optimizer, an iterable, pairs, a dict."""

from __future__ import annotations

import operator
import re
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, NamedTuple

import torch

from gradclip.engines import choice, torch_layout
from gradclip.rules.arguments import items_of
from gradclip.rules.arrays import Operand
from gradclip.step.gradients import Gradients, is_needed, name_at, refuse_unpaired
from gradclip.step.respond import report_nothing

MANY = 32
"""From so many parameters on, calling a compiled function is cheaper than a loop."""

NeedClip = Callable[[torch.Tensor], bool]

_names: weakref.WeakKeyDictionary[torch.nn.Module, dict[int, tuple[str, torch.Tensor]]] = weakref.WeakKeyDictionary()
"""For each module its parameters and their names, by identity: asking GPT-2 for them takes a third of a millisecond."""


class TorchParameters(NamedTuple):
    """Parameters in a list, with a function that names the i-th, and the parameter group of each."""

    tensors: list[torch.Tensor]
    name: Callable[[int], str] = "parameters[{}]".format
    groups: list[int] | None = None

    def only(self, indices: list[int]) -> TorchParameters:
        """The parameters at `indices`."""
        groups = None if self.groups is None else [self.groups[i] for i in indices]
        return TorchParameters([self.tensors[i] for i in indices], partial(name_at, self.name, indices), groups)


def parameters_of(source: Any) -> TorchParameters:
    """The parameters in `source`, materialised; what holds none at all is reported."""
    if type(source) is list and source and isinstance(source[0], torch.Tensor):
        return TorchParameters(source)
    if isinstance(source, TorchParameters):
        return source
    if isinstance(source, torch.Tensor):
        return TorchParameters([source])
    if isinstance(source, torch.nn.Module):
        source = named(source)
    elif isinstance(source, Mapping):
        source = source.items()
    elif isinstance(source, torch.optim.Optimizer) or hasattr(source, "param_groups"):
        return of_optimizers([source])
    return _listed(source, _items(source))


def _items(source: Any) -> list[Any]:
    items = None if isinstance(source, str) else items_of(source)
    if items is None:
        raise TypeError(
            f"expected parameters, got {type(source).__name__}: give model.parameters(), a module, an optimizer, "
            "a dict of names, or a tensor"
        )
    return items


def _listed(source: Any, items: list[Any]) -> TorchParameters:
    if not items:
        report_nothing(
            "an exhausted iterator: model.parameters() can be read once, make it a list"
            if isinstance(source, Iterator)
            else "no parameters at all"
        )
    if not items or not isinstance(items[0], tuple):
        return TorchParameters(items)
    refuse_unpaired(items)
    names = distinct(str(item[0]) for item in items)
    return TorchParameters([item[1] for item in items], names.__getitem__)


def of_optimizers(optimizers: list[torch.optim.Optimizer], model: torch.nn.Module | None = None) -> TorchParameters:
    """The parameters of optimizers that are to be clipped, with their groups; `need_clip` is a key of a group."""
    tensors: list[torch.Tensor] = []
    groups: list[int] = []
    places: list[tuple[int, dict[str, Any], int]] = []  # for each group its first index, itself, and its number
    every = [group for optimizer in optimizers for group in optimizer.param_groups]
    for number, group in enumerate(every):
        if group.get("need_clip", True):
            places.append((len(tensors), group, number))
            tensors += group["params"]
            groups += [number] * len(group["params"])
    return TorchParameters(tensors, OptimizerNames(tensors, places, model), groups)


class OptimizerNames:
    """Names the i-th parameter of optimizers: as the model has it, or the optimizer, or by its place there."""

    def __init__(
        self, tensors: list[torch.Tensor], places: list[tuple[int, dict[str, Any], int]], model: torch.nn.Module | None
    ) -> None:
        self._tensors, self._places, self._model = tensors, places, model
        self._looked_up = False
        self._own: list[str] = []

    def __call__(self, index: int) -> str:
        known_as, _ = self._in_model(index).get(id(self._tensors[index]), ("", None))
        if not known_as and not self._own:
            self._own = list(distinct(_name_in(self._places, i) for i in range(len(self._tensors))))
        return known_as or self._own[index]

    def __eq__(self, other: object) -> bool:
        """Whether these name the same parameters, and so in the same way."""
        if not isinstance(other, OptimizerNames) or self._model is not other._model:
            return False
        alike = len(self._tensors) == len(other._tensors) and self._groups == other._groups
        return alike and all(map(operator.is_, self._tensors, other._tensors))

    __hash__ = None  # type: ignore[assignment]  # what says that it has an __eq__ alone

    @property
    def _groups(self) -> list[tuple[int, Any]]:
        """The names that each group has of its own."""
        return [(first, group.get("param_names")) for first, group, _ in self._places]

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[list[str], str]]:
        """A copy is of the names alone, without parameters."""
        return getattr, (list(map(self, range(len(self._tensors)))), "__getitem__")

    def _in_model(self, index: int) -> dict[int, tuple[str, torch.Tensor]]:
        """What is known of the model, looked up anew, once, where parameter `index` is not in it."""
        if self._model is None:
            return {}
        known = _names.setdefault(self._model, {})
        if id(self._tensors[index]) not in known and not self._looked_up:
            self._looked_up = True
            known.clear()
            known.update({id(tensor): (name, tensor) for name, tensor in named(self._model)})
        return known


def distinct(names: Iterable[str]) -> list[str]:
    """`names`, where one that occurred before gets its number: "weight (2)". What is remembered goes by the name."""
    seen: dict[str, int] = {}
    found = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        found.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return found


def named(model: torch.nn.Module) -> list[tuple[str, torch.nn.Parameter]]:
    """The parameters of a model by the names that they have without what is put around its modules."""
    return [(unwrapped_name(name), parameter) for name, parameter in plain_module(model).named_parameters()]


def unwrapped_name(name: str) -> str:
    """The name of a parameter without what is put around the modules on the way to it."""
    return WRAPPED.sub("", name)


WRAPPED = re.compile(r"(_orig_mod|_checkpoint_wrapped_module|_fsdp_wrapped_module)\.")
"""What `torch.compile`, activation checkpointing and FullyShardedDataParallel put into the names of parameters."""


def plain_module(model: torch.nn.Module) -> torch.nn.Module:
    """The user's own module inside those that `torch.compile` and data parallelism put around it, for its names."""
    parallel = (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel)
    inner = model.module if isinstance(model, parallel) else getattr(model, "_orig_mod", None)
    return plain_module(inner) if isinstance(inner, torch.nn.Module) else model


def _name_in(places: list[tuple[int, dict[str, Any], int]], index: int) -> str:
    """The name that the optimizer has for a parameter, or its place."""
    first, group, number = [place for place in places if place[0] <= index][-1]
    names = group.get("param_names")
    return names[index - first] if names else f"group {number}, parameter {index - first}"


def chosen(parameters: TorchParameters, need_clip: NeedClip | None) -> TorchParameters:
    """Those that need clipping, each once, and that have a gradient or may have one in another process."""
    tensors = parameters.tensors
    if not all(issubclass(kind, torch.Tensor) for kind in set(map(type, tensors))):
        refuse_others(tensors)
    with attributes_at_once():
        needed = [
            i
            for i, p in enumerate(tensors)
            if getattr(p, "need_clip", True) and (p.requires_grad or p.grad is not None)
        ]
    if need_clip is not None:
        needed = [i for i in needed if is_needed(need_clip, tensors[i])]
    if len(needed) == len(set(map(id, tensors))) == len(tensors):
        return parameters
    once = {id(tensors[i]): i for i in reversed(needed)}
    return parameters.only(sorted(once.values()))


def gradients_of(parameters: TorchParameters, need_clip: NeedClip | None = None, divisor: Operand = 1.0) -> Gradients:
    """The gradients to clip: of the parameters that have one and that need clipping, each parameter once."""
    tensors = parameters.tensors
    refuse_shards(tensors, parameters.name)
    found = found_in(tensors)
    if need_clip is None and len(found) == len(tensors):
        return Gradients(found, parameters.name, parameters.groups, lambda: tensors, divisor)
    kept = [
        i
        for i, p in enumerate(tensors)
        if p.grad is not None and getattr(p, "need_clip", True) and is_needed(need_clip, p)
    ]
    return Gradients([p.grad for p in tensors], parameters.name, parameters.groups, lambda: tensors, divisor).only(kept)


def are_sharded(tensors: Sequence[object]) -> bool:
    """Whether any of them is a DTensor; plain ones beside it are the same in all processes."""
    known = sys.modules.get("torch.distributed.tensor")  # importing it takes as long as half of PyTorch
    if known is None:
        return False
    return any(issubclass(kind, known.DTensor) for kind in set(map(type, tensors)))


def attributes_at_once() -> AbstractContextManager[Any]:
    """Inside it a DTensor's attributes are read as those of a plain tensor, in a third of the time."""
    return torch._C.DisableTorchFunctionSubclass()


def here_of(tensor: torch.Tensor) -> torch.Tensor:
    """What this process has of a tensor, which is all of it unless it is a DTensor."""
    here: torch.Tensor = getattr(tensor, "_local_tensor", tensor)
    return here


def refuse_shards(parameters: list[torch.Tensor], name: Callable[[int], str] = "parameters[{}]".format) -> None:
    """Raise where a parameter is a piece of one, as FullyShardedDataParallel cuts them: its norm is not the model's."""
    if processes() == 1:
        return
    pieces = [index for index, p in enumerate(parameters) if getattr(p, "_fsdp_flattened", False)]
    if pieces and all(parameters[index].dim() == 1 and not _is_whole(parameters[index]) for index in pieces):
        raise TypeError(
            f"the gradient of {name(pieces[0])!r} cannot be clipped: it is a piece of one that "
            "FullyShardedDataParallel has cut: call model.clip_grad_norm_(max_norm) of the wrapped model"
        )


def _is_whole(parameter: torch.Tensor) -> bool:
    """Whether each process has all of what FullyShardedDataParallel has made one flat tensor of."""
    size = getattr(parameter, "_unpadded_unsharded_size", None)
    return size is not None and size.numel() == parameter.numel()


def processes() -> int:
    """How many processes train together."""
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if distributed else 1


def found_in(parameters: list[torch.Tensor]) -> list[torch.Tensor]:
    """The gradients of the parameters that have one and do not say `need_clip=False`."""
    if len(parameters) >= MANY:
        read = choice.reader(torch_layout, "grad", "need_clip")
        if read is not None and (found := read(parameters)) is not None:
            return found
    try:
        return [g for p in parameters if (g := p.grad) is not None and getattr(p, "need_clip", True)]
    except AttributeError:
        refuse_others(parameters)
        raise


def refuse_others(parameters: Sequence[object]) -> None:
    """Raise for the first of these that is no tensor."""
    for place, other in enumerate(parameters):
        if not isinstance(other, torch.Tensor):
            raise TypeError(f"parameters[{place}] is a {type(other).__name__}, not a torch.Tensor") from None


SECOND = "exp_avg_sq"
"""What PyTorch's optimizers call the second moment."""


def second_moments(
    optimizers: list[torch.optim.Optimizer], parameters: list[torch.Tensor]
) -> list[torch.Tensor | None]:
    """What the optimizers keep of the squares of each gradient; None where a parameter was not stepped yet."""
    for optimizer in optimizers:
        seen = next((state for state in optimizer.state.values() if state), None)
        if "betas" not in optimizer.defaults or (seen is not None and SECOND not in seen):
            raise ValueError(
                f"{type(optimizer).__name__} keeps no second moment ({SECOND!r}), which this rule reads: use it with "
                "Adam, AdamW, NAdam or RAdam"
            )
    states = [optimizer.state for optimizer in optimizers]
    return [next((state[p][SECOND] for state in states if state.get(p)), None) for p in parameters]
