"""What four processes of fleet's hybrid parallelism do with a clip, in each grid, and what one process would do.

Paddle's processes meet in a TCP store that loses messages, or mixes them up, where more than two are there. So fleet
makes its groups as always, and what they send goes over the gloo of PyTorch, whose processes meet in a file.
"""

from __future__ import annotations

import datetime
import faulthandler
import json
import tempfile
import warnings
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import paddle
import paddle.distributed as dist
import torch
from paddle.base.core import ReduceOp
from paddle.distributed import collective, fleet, parallel

from gradclip import AutoClip, ClipGradByGlobalNorm, ClipGradByNorm, ClipGradByValue, NonFiniteGradient, Rules
from gradclip.clipper import Clipper
from gradclip.engines.base import Across
from gradclip.engines.reference import ReferenceEngine
from gradclip.paddle import Clip
from gradclip.paddle import fleet as fleet_groups
from gradclip.step import respond
from gradclip.step.gradients import Gradients
from paddle_eager import numbers, parameter
from paddle_hybrid import started

HANGS = 60.0
"""Seconds after which a process that waits for the others says where, and ends."""

GRIDS = {
    "mp 2 x pp 2": {"mp_degree": 2, "pp_degree": 2},
    "mp 2 x sharding 2": {"mp_degree": 2, "sharding_degree": 2},
    "dp 2 x mp 2": {"dp_degree": 2, "mp_degree": 2},
    "pp 4": {"pp_degree": 4},
}
SHAPES = {"embedding": (8, 3), "up": (3, 6), "up_bias": (6,), "down": (6, 3), "down_bias": (3,), "head": (3, 4)}
CUT = {"embedding": 0, "up": 1, "up_bias": 0, "down": 0}
"""The axis along which model parallelism cuts a parameter; of the others each process has a copy."""

RULES = {
    "global": ClipGradByGlobalNorm(1.0),
    "chain": ClipGradByNorm(2.0) >> ClipGradByGlobalNorm(3.0),
    "by name": Rules([("*up*", ClipGradByNorm(2.0)), ("*head", ClipGradByGlobalNorm(1.5)), ("*", ClipGradByValue(1.0))])
    >> ClipGradByGlobalNorm(3.0),
    "AutoClip": AutoClip(50),
}
NUMBERS = count()
POLICIES = ("keep", "skip", "zero", "raise")
STEPS = 3


KINDS = {ReduceOp.SUM: torch.distributed.ReduceOp.SUM, ReduceOp.MAX: torch.distributed.ReduceOp.MAX}


class Gloo:
    """What fleet calls of a process group, for those of these ranks."""

    def __init__(self, ranks: list[int]) -> None:
        self._group = torch.distributed.new_group(ranks, use_local_synchronization=True)

    def all_reduce(self, tensor: Any, how: Any, waits: bool) -> Gloo:
        numbers = torch.from_numpy(tensor.numpy())
        torch.distributed.all_reduce(numbers, KINDS[how], self._group)
        paddle.assign(paddle.to_tensor(numbers.numpy()), tensor)
        return self

    def barrier(self, *arguments: Any) -> Gloo:
        torch.distributed.barrier(self._group)
        return self

    def wait(self) -> None:
        """It is done."""


def meet(file: str) -> None:
    """Let the processes that paddle starts meet in a file."""
    rank, number = dist.get_rank(), dist.get_world_size()
    limit = datetime.timedelta(seconds=2 * HANGS)
    torch.distributed.init_process_group("gloo", f"file://{file}", rank=rank, world_size=number, timeout=limit)
    members, new_group = list(range(number)), dist.new_group

    def of_members(*arguments: Any, **options: Any) -> Gloo:
        return Gloo(members)

    def new(ranks: list[int], **options: Any) -> Any:
        members[:] = sorted(ranks)
        return new_group(ranks, **options)

    collective._new_process_group_impl = parallel._new_process_group_impl = of_members
    dist.new_group = new


def part_of(name: str, whole: np.ndarray, rank: int, number: int) -> np.ndarray:
    """What one of so many processes of model parallelism has of a tensor."""
    return np.split(whole, number, CUT[name])[rank] if name in CUT and number > 1 else whole


class Place:
    """Where this process is in the grid, and which parts of the model it has."""

    def __init__(self, degrees: dict[str, int]) -> None:
        self.rank = started(**degrees)
        self.grid = fleet.get_hybrid_communicate_group()
        self.mp, self.pp, self.sharding = (degrees.get(f"{name}_degree", 1) for name in ("mp", "pp", "sharding"))
        self.stage = self.grid.get_stage_id()

    def names(self) -> list[str]:
        """The parameters that are updated here: those of a stage, or every second one. The embedding is tied."""
        if self.sharding > 1:
            return list(SHAPES)[self.grid.get_sharding_parallel_rank() :: 2]
        own = [name for i, name in enumerate(SHAPES) if i * self.pp // len(SHAPES) == self.stage]
        return own if self.stage < self.pp - 1 or self.pp == 1 else [*own, "embedding"]

    def part(self, name: str, whole: np.ndarray) -> np.ndarray:
        """What this process has of a tensor."""
        return part_of(name, whole, self.grid.get_model_parallel_rank(), self.mp)

    def alone(self) -> bool:
        """Whether it happens here what happens on one process only; those of data parallelism have the same."""
        return (
            (self.mp == 1 or self.grid.get_model_parallel_rank() == 0)
            and self.stage == self.pp // 2
            and (self.sharding == 1 or self.grid.get_sharding_parallel_rank() == 1)
        )

    def is_last(self) -> bool:
        """Whether this process has the last stage or the second shard, of several."""
        return self.stage == self.pp - 1 > 0 or (self.sharding > 1 and self.grid.get_sharding_parallel_rank() == 1)

    def parameters(self, dtype: str = "float32") -> dict[str, Any]:
        """The parameters of this process; Paddle wants each name only once."""
        made = {}
        for name in self.names():
            own = self.part(name, np.zeros(SHAPES[name], dtype))
            made[name] = parameter(grad=paddle.to_tensor(own), name=f"{next(NUMBERS)}.{name}")
            made[name].is_distributed = name in CUT and self.mp > 1
            if name == "embedding":
                made[name].is_firstly_shared = self.stage == 0
        return made

    def ready(self, made: dict[str, Any], step: int = 0, broken: bool = False) -> dict[str, Any]:
        """The parameters at zero, with the gradients of a step, of which one may hold a NaN on one process."""
        for place, (name, tensor) in enumerate(made.items()):
            own = self.part(name, model(step)[name]).astype(tensor.numpy().dtype)
            if broken and self.alone() and not place:
                own.flat[0] = np.nan
            tensor.set_value(np.zeros_like(own))
            tensor.grad = paddle.to_tensor(own)
        return made


def model(step: int = 0) -> dict[str, np.ndarray]:
    """The gradients of the whole model at a step."""
    draw = np.random.default_rng(step)
    return {name: ((1 + step) * draw.standard_normal(shape)).astype(np.float32) for name, shape in SHAPES.items()}


def truth(rule: Any, *models: dict[str, np.ndarray], **options: Any) -> tuple[list[dict[str, np.ndarray]], Clipper]:
    """The gradients after each step as one process would clip them, in float64, and its clipper."""
    clipper, found = Clipper(rule, **options), []
    for gradients in models:
        clipped = {name: gradient.astype(np.float64) for name, gradient in gradients.items()}
        clipper.clip_gradients(Gradients(list(clipped.values()), list(clipped).__getitem__), ReferenceEngine())
        found.append(clipped)
    return found, clipper


def stepped(clip: Clip, made: dict[str, Any]) -> dict[str, Any]:
    """How a step of an optimizer ended here."""
    error = ""
    try:
        paddle.optimizer.SGD(1.0, parameters=list(made.values()), grad_clip=clip).step()
    except NonFiniteGradient as raised:
        error = type(raised).__name__
    told = {} if error else {"norm": clip.last.norm_before.hex(), "skipped": clip.last.skipped}
    if not error:
        told["stages"] = [(s.norm_before.hex(), s.coefficient.hex()) for s in clip.last.segments if s.name == "all"]
    return {"moved": {name: numbers(p).tolist() for name, p in made.items()}, "error": error, **told}


def summed_up(bug: Callable[[Across], Across], real: Any = fleet_groups.across) -> Any:
    """How the door sums up over the groups of fleet, with a bug."""
    return mock.patch.object(fleet_groups, "across", lambda *groups: bug(real(*groups)))


PLANTS: dict[str, Callable[[], Any]] = {
    "a copy counts twice": lambda: summed_up(lambda sums: sums._replace(counted=lambda array: array)),
    "parts of a tensor are taken for tensors": lambda: summed_up(lambda sums: sums._replace(shards=lambda a, how: a)),
    "stages do not know of one another": lambda: summed_up(lambda sums: sums._replace(tensors=lambda a, how: a)),
    "each process acts for itself": lambda: mock.patch.object(respond, "in_any", lambda number, *given: number),
}
"""Bugs with which the processes still wait for one another as often."""


def in_grid(degrees: dict[str, int]) -> dict[str, Any]:
    """How each case ends in this process, and in one grid with each bug."""
    place = Place(degrees)
    found = every_case(place)
    for what, bug in PLANTS.items() if degrees == GRIDS["mp 2 x pp 2"] else ():
        with bug():
            found[what] = every_case(place)
    return found


def every_case(place: Place) -> dict[str, Any]:
    """How each case ends in this process."""
    made = place.parameters()
    found: dict[str, Any] = {"mp": [place.grid.get_model_parallel_rank(), place.mp], "has": list(made)}
    for name, rule in RULES.items():
        clip = Clip(rule)
        found[name] = [stepped(clip, place.ready(made, step)) for step in range(STEPS)]
        found[f"{name} remembers"] = clip.state_dict()["thresholds"]
    found["operations"] = stepped(Clip(RULES["by name"], engine="paddle"), place.ready(made))
    found["broken"] = list(made)[: place.alone()]
    for policy in POLICIES:
        found[policy] = stepped(Clip(RULES["chain"], on_nonfinite=policy), place.ready(made, broken=True))
    place.ready(made)
    for tensor in made.values() if place.is_last() else ():
        tensor.clear_gradient(False)
    found["none"] = place.is_last()
    found["without"] = stepped(Clip(RULES["chain"]), made)
    mixed = place.parameters("float64" if place.is_last() else "float32")
    found["float64"] = stepped(Clip(RULES["chain"]), place.ready(mixed))
    return found


def work(folder: str) -> None:
    """Write how each case in each grid ends in this process to a file there."""
    faulthandler.dump_traceback_later(HANGS, exit=True)
    meet(f"{folder}/meeting")
    warnings.simplefilter("ignore")
    found = {name: in_grid(degrees) for name, degrees in GRIDS.items()}
    Path(folder, f"{dist.get_rank()}.json").write_text(json.dumps(found))
    faulthandler.cancel_dump_traceback_later()


def ended() -> list[dict[str, Any]]:
    """How each case ended in each process."""
    with tempfile.TemporaryDirectory() as folder:
        dist.spawn(work, args=(folder,), nprocs=4, backend="gloo", start_method="fork")
        return [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(4)]
