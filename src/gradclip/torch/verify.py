"""Whether the norm that gradclip computes is that of the whole gradient: everything is gathered once and compared."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fnmatch import fnmatchcase
from itertools import permutations
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from gradclip.rules.recipes import ClipGradByGlobalNorm, ClipGradByNorm
from gradclip.torch.clipper import Clipper
from gradclip.torch.eager import eager
from gradclip.torch.parameters import are_sharded, chosen, here_of, parameters_of, processes

TOLERANCE = 1e-6
"""How far a norm may be from the truth, relative."""


class VerifiedNorm(NamedTuple):
    """The `norm` that gradclip computes and the one of everything gathered in float64, `expected`.

    `parameter` is the first one that explains a difference, or that is not the same where it is taken for the same;
    `words` say what to do about it.
    """

    norm: float
    expected: float
    parameter: str | None
    words: str

    @property
    def right(self) -> bool:
        """Whether the norm is right, and nothing is taken for a copy that is none."""
        return self.parameter is None and _alike(self.norm, self.expected)

    def __repr__(self) -> str:
        return f"<norm {self.norm:.6g}, of everything gathered {self.expected:.6g}: {self.words}>"


@eager
def verify_norm(
    source: Any,
    *,
    groups: Mapping[str, dist.ProcessGroup] | None = None,
    pipeline: dist.ProcessGroup | None = None,
) -> VerifiedNorm:
    """Compare the global norm that gradclip computes with that of all gradients, gathered in every process.

    `source` is a model or an optimizer after backward(), `groups` and `pipeline` are those of `attach`. All processes
    call it; it takes the memory of the largest gradient as a whole, so call it once, and not in training. Gradients are
    not written. The first parameter that explains a difference is named: its shards do not add up to what its
    placements say, or it is taken for a copy and the processes have different gradients of it.

    >>> model = torch.nn.Linear(2, 1)
    >>> model(torch.ones(3, 2)).sum().backward()
    >>> verify_norm(model)
    <norm 5.19615, of everything gathered 5.19615: right>
    """
    given = chosen(parameters_of(source), None)
    options: dict[str, Any] = {"groups": groups, "pipeline": pipeline}
    norm = Clipper(ClipGradByGlobalNorm(None), **options).clip_(source).norm_before
    each = Clipper(ClipGradByNorm(None), **options)
    each.clip_(source)
    measured = {row.name: row.norm_before for row in each.last.segments}
    names = [given.name(index) for index in range(len(given.tensors))]
    cut = [_misfit(name, p) for name, p in zip(names, given.tensors, strict=True)]
    if (found := _first_of_all([one for one in cut if one])) is not None:
        return VerifiedNorm(norm, math.nan, *found)
    squares = {name: _square_of(p) for name, p in zip(names, given.tensors, strict=True)}
    alone = [name for name in names if not any(fnmatchcase(name, pattern) for pattern in groups or {})]
    cut_up = {name for name, p in zip(names, given.tensors, strict=True) if are_sharded([p])}
    expected = _root_of_all(squares, groups or {}, pipeline)
    if pipeline is None and (other := _missing(alone)) is not None:
        return VerifiedNorm(norm, expected, other[0], other[1])
    if (other := _unlike([name for name in alone if name not in cut_up], squares, pipeline)) is not None:
        return VerifiedNorm(norm, expected, other[0], other[1])
    wrong = [
        (name, _other(name, measured[name], math.sqrt(square)))
        for name, square in squares.items()
        if name in measured and not _alike(measured[name], math.sqrt(square))
    ]
    if (found := _first_of_all(wrong)) is not None:
        return VerifiedNorm(norm, expected, *found)
    words = "right" if _alike(norm, expected) else "wrong, though that of each parameter is right: please report it"
    return VerifiedNorm(norm, expected, None, words)


def _square_of(parameter: torch.Tensor) -> float:
    """The sum of squares of a whole gradient, in float64; processes that have none of it take part."""
    gradient: Any = parameter.grad
    if not are_sharded([parameter]):
        return 0.0 if gradient is None else float((gradient.detach().to_dense().double().abs() ** 2).sum())
    if gradient is None:
        gradient = torch.zeros_like(parameter)
    return float((gradient.detach().full_tensor().double().abs() ** 2).sum())


def _root_of_all(squares: Mapping[str, float], groups: Mapping[str, Any], pipeline: Any) -> float:
    """The norm of all: what a pattern matches is another in each process of its group, as all is in a pipeline."""
    total, rest = 0.0, dict(squares)
    for pattern, group in groups.items():
        own = [rest.pop(name) for name in list(rest) if fnmatchcase(name, pattern)]
        total += sum(_gathered(sum(own), group))
    total += sum(rest.values())
    return math.sqrt(total if pipeline is None else sum(_gathered(total, pipeline)))


def _missing(names: list[str]) -> tuple[str, str] | None:
    """The first of these parameters that another process has not, and the words for it."""
    every = [names] if processes() == 1 else _gathered(names, dist.group.WORLD)
    for first, second in permutations(range(len(every)), 2):
        theirs = set(every[second])
        for name in every[first]:
            if name not in theirs:
                return name, (
                    f"rank {first} has {name!r} and rank {second} has not, and each counts what it has: where each "
                    "process has a stage of its own say pipeline=group, else hand over the same parameters everywhere"
                )
    return None


def _unlike(names: list[str], squares: Mapping[str, float], pipeline: Any) -> tuple[str, str] | None:
    """The first of these parameters of which another process has another gradient, and the words for it."""
    if processes() == 1:
        return None
    mine = {name: squares[name] for name in names}
    every = _gathered(mine, dist.group.WORLD)
    stages = set() if pipeline is None else set(dist.get_process_group_ranks(pipeline))
    pairs = [(first, second) for first in range(len(every)) for second in range(first + 1, len(every))]
    for first, second in pairs:
        both = [] if {first, second} <= stages else [name for name in every[first] if name in every[second]]
        for name in both:
            if not _alike(math.sqrt(every[first][name]), math.sqrt(every[second][name])):
                return name, _differs(name, first, second)
    return None


def _misfit(name: str, parameter: torch.Tensor) -> tuple[str, str] | None:
    """A parameter and the words for it, where what is here of its gradient has another shape than it ought to have."""
    gradient: Any = parameter.grad
    if gradient is None or not are_sharded([gradient]):
        return None
    from gradclip.engines.torch_placement import Placed

    here = tuple(here_of(gradient).shape)
    ought = Placed(tuple(gradient.shape), gradient.dtype, gradient.device_mesh, gradient.placements).local_shape
    if here == ought:
        return None
    return name, (
        f"the gradient of {name!r} has the shape {here} on rank {dist.get_rank()}, and by its placements "
        f"{gradient.placements} it ought to have {ought}: what made this DTensor gave it placements that it has not"
    )


def _first_of_all(found: list[tuple[str, str]]) -> tuple[str, str] | None:
    """The first that any process has found."""
    every = [found] if processes() == 1 else _gathered(found, dist.group.WORLD)
    return next((one for of_rank in every for one in of_rank), None)


def _gathered(value: Any, group: Any) -> list[Any]:
    every: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(every, value, group)
    return every


def _alike(a: float, b: float) -> bool:
    return a == b or abs(a - b) <= TOLERANCE * abs(b) or (math.isnan(a) and math.isnan(b))


def _other(name: str, measured: float, expected: float) -> str:
    where = f" on rank {dist.get_rank()}" if processes() > 1 else ""
    return (
        f"the norm of the gradient of {name!r} is {measured:.6g} by its shards and {expected:.6g} as a whole{where}: "
        "its placements do not say what each process has of it, such as a copy that is no copy"
    )


def _differs(name: str, first: int, second: int) -> str:
    return (
        f"{name!r} is a plain tensor, which counts once, and rank {first} and rank {second} have different gradients "
        "of it: all-reduce it before the clip, make it a DTensor, or, where each process has its own parameter, say "
        f"groups={{{name!r}: group}} or pipeline=group"
    )
