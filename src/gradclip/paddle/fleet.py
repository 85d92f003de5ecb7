"""The groups of fleet's hybrid parallelism: what other processes measured counts as well.

Under model (tensor) parallelism a parameter with `is_distributed` is one part of a matrix, under sharding and pipeline
parallelism other processes have other parameters. Plain data parallelism averages the gradients before the clip, so
all processes have the same, and nothing is to do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import paddle
import paddle.distributed as dist
from paddle.distributed import fleet

from gradclip.engines.base import Across
from gradclip.engines.paddle_arrays import Wide
from gradclip.engines.paddle_legacy import PaddleTensor
from gradclip.rules.arrays import Array
from gradclip.rules.rule import AnyRule, Rule, rules_in
from gradclip.rules.scope import Element, Global

OPERATIONS = {"sum": dist.ReduceOp.SUM, "max": dist.ReduceOp.MAX}


def shares() -> bool:
    """Whether the processes of fleet have parts of one gradient, or gradients of their own."""
    grid = _topology()
    return grid is not None and (
        grid.get_model_parallel_world_size() > 1
        or grid.get_sharding_parallel_world_size() > 1
        or grid.get_pipe_parallel_world_size() > 1
    )


def across_of(parameters: list[PaddleTensor], rule: AnyRule) -> Across:
    """How to sum up over the processes that share these parameters or have others."""
    topology = _topology()
    model = topology.get_model_parallel_group() if topology.get_model_parallel_world_size() > 1 else None
    others = []
    if topology.get_sharding_parallel_world_size() > 1:
        _refuse_slices(rule)
        others.append(topology.get_sharding_parallel_group())
    if topology.get_pipe_parallel_world_size() > 1:
        others.append(topology.get_pipe_parallel_group())
    return across(parameters, model, others)


def _topology() -> Any:
    return getattr(fleet.fleet, "_hcg", None)  # absent before fleet.init


def across(parameters: list[PaddleTensor], model: Any, others: list[Any]) -> Across:
    """The sums over one group that shares parameters and over groups that have others.

    A parameter that several stages of a pipeline share counts where `is_firstly_shared` does not say no.
    """
    parts = np.array([getattr(parameter, "is_distributed", False) for parameter in parameters], bool)
    first = np.array([getattr(parameter, "is_firstly_shared", True) for parameter in parameters], bool)

    def shards(array: Array, how: str) -> Array:
        return array if model is None else _chosen(array, parts, lambda tensor: _reduced(tensor, how, [model]))

    def tensors(array: Array, how: str) -> Array:
        return _mapped(array, lambda tensor: _reduced(tensor, how, others))

    def counted(array: Array) -> Array:
        return array if first.all() else _chosen(array, ~first, paddle.zeros_like)

    def some(indices: Sequence[int]) -> Across:
        return across([parameters[index] for index in indices], model, others)

    return Across(shards, tensors, counted, others=bool(others), some=some)


def _chosen(array: Array, chosen: np.ndarray, function: Callable[[PaddleTensor], PaddleTensor]) -> Array:
    """`array` with `function` of its `chosen` elements; the others are 0 for the function."""

    def both(tensor: PaddleTensor) -> PaddleTensor:
        condition = paddle.to_tensor(chosen)
        return paddle.where(condition, function(paddle.where(condition, tensor, paddle.zeros_like(tensor))), tensor)

    return _mapped(array, both) if len(chosen) else array


def _mapped(array: Array, function: Callable[[PaddleTensor], PaddleTensor]) -> Array:
    """`function` of an engine's array as a tensor, as an array of the engine."""
    if isinstance(array, Wide):
        return Wide(function(array.value))
    mapped: np.ndarray = function(paddle.to_tensor(np.asarray(array, np.float64), place=paddle.CPUPlace())).numpy()
    return mapped


def _reduced(tensor: PaddleTensor, how: str, groups: list[Any]) -> PaddleTensor:
    reduced = tensor.clone()
    for group in groups:
        dist.all_reduce(reduced, OPERATIONS[how], group)
    return reduced


def _refuse_slices(rule: AnyRule) -> None:
    """Sharding with `split_param` gives each process a slice of each parameter, whose own norm nobody knows."""
    configs = fleet.fleet._user_defined_strategy.hybrid_configs["sharding_configs"]
    if configs.split_param and not all(_takes_slices(single) for single in rules_in(rule)):
        raise ValueError(f"sharding with split_param=True cuts parameters into slices, and {rule!r} needs whole ones")


def _takes_slices(rule: Rule) -> bool:
    by_value = isinstance(rule.scope, Element) and not rule.threshold.adapts
    return by_value or isinstance(rule.scope, Global)
