"""From whatever the user hands over to a list of parameters with their gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

import paddle

from gradclip.engines.paddle_legacy import PaddleTensor
from gradclip.rules.arguments import items_of
from gradclip.step.gradients import is_needed, refuse_unpaired
from gradclip.step.respond import report_nothing

NeedClip: TypeAlias = Callable[[PaddleTensor], bool]
Pair: TypeAlias = tuple[PaddleTensor, PaddleTensor]
"""A parameter and its gradient."""


class PaddleParameters(NamedTuple):
    """Parameters in a list, with a function that names the i-th, and the parameter group of each."""

    tensors: list[PaddleTensor]
    name: Callable[[int], str]
    groups: list[int] | None = None


def parameters_of(source: Any) -> PaddleParameters:
    """The parameters in `source`, materialised; what holds none at all is reported."""
    if isinstance(source, PaddleParameters):
        return source
    if isinstance(source, paddle.Tensor):
        return named_by_themselves([source])
    if isinstance(source, paddle.nn.Layer | paddle.Model):
        return named_by_themselves(list(source.parameters()))
    if isinstance(source, paddle.optimizer.Optimizer):
        return of_optimizer(source)
    items = list(source.items()) if isinstance(source, Mapping) else _items(source)
    if not items:
        report_nothing(
            "an exhausted iterator: it can be read once, make it a list"
            if isinstance(source, Iterator)
            else "no parameters at all"
        )
    if not items or not isinstance(items[0], tuple):
        return named_by_themselves(items)
    refuse_unpaired(items)
    names = [str(name) for name, _ in items]
    return PaddleParameters(_checked([parameter for _, parameter in items]), names.__getitem__)


def named_by_themselves(tensors: list[PaddleTensor], groups: list[int] | None = None) -> PaddleParameters:
    """`tensors` under the names that Paddle gave them, such as "linear_0.w_0"."""
    return PaddleParameters(_checked(tensors), lambda index: str(tensors[index].name), groups)


def of_optimizer(optimizer: paddle.optimizer.Optimizer) -> PaddleParameters:
    """The parameters of an optimizer with their groups."""
    groups = optimizer._param_groups
    if not (groups and isinstance(groups[0], dict)):
        return named_by_themselves(list(groups))
    tensors = [parameter for group in groups for parameter in group["params"]]
    return named_by_themselves(tensors, [number for number, group in enumerate(groups) for _ in group["params"]])


def _items(source: Any) -> list[Any]:
    items = None if isinstance(source, str) else items_of(source)
    if items is None:
        raise TypeError(
            f"expected parameters, got {type(source).__name__}: give layer.parameters(), a layer, an optimizer, "
            "a dict of names, or a tensor"
        )
    return items


def _checked(tensors: list[PaddleTensor]) -> list[PaddleTensor]:
    for place, tensor in enumerate(tensors):
        if not isinstance(tensor, paddle.Tensor):
            raise TypeError(f"parameters[{place}] is a {type(tensor).__name__}, not a paddle.Tensor")
    return tensors


def gradient_of(parameter: PaddleTensor) -> PaddleTensor:
    """The gradient that the optimizer will step on: mixed precision keeps one in float32 beside the parameter's own."""
    main = getattr(parameter, "main_grad", None)
    return parameter._grad_ivar() if main is None else main


def put_gradient(parameter: PaddleTensor, gradient: PaddleTensor) -> None:
    """Make `gradient` the one that the optimizer will step on."""
    if getattr(parameter, "main_grad", None) is None:
        parameter.grad = gradient
    else:
        parameter.main_grad = gradient


def drop_gradients(parameters: Iterable[PaddleTensor]) -> None:
    """Take the gradients away, so that an optimizer leaves the parameters and its state alone."""
    for parameter in parameters:
        put_gradient(parameter, None)


def needs_clip(parameter: PaddleTensor, need_clip: NeedClip | None) -> bool:
    """Whether neither the parameter (`ParamAttr(need_clip=False)`) nor the function takes it out."""
    return getattr(parameter, "need_clip", True) is not False and is_needed(need_clip, parameter)
