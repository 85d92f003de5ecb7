"""The clipper of PyTorch: the explicit form, and the skip of a step."""

from __future__ import annotations

import importlib.util
import os
import warnings
from collections.abc import Iterable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import torch

from gradclip import clipper
from gradclip.engines import choice, torch_layout
from gradclip.engines import torch as torch_engine
from gradclip.engines.base import Engine, LiesOtherwise
from gradclip.engines.torch import TorchEngine
from gradclip.engines.torch_devices import DevicesEngine
from gradclip.engines.torch_functions import wide_of
from gradclip.errors import GradclipWarning
from gradclip.rules.combine import RATE
from gradclip.rules.rule import AnyRule
from gradclip.step.gradients import Gradients, OnSeveralDevices, checked_need_clip, one_float
from gradclip.step.layout import LineUp
from gradclip.step.respond import report_none_found, slow, user_level
from gradclip.step.result import Result
from gradclip.telemetry import Telemetry
from gradclip.torch.eager import eager
from gradclip.torch.optimizers import inside
from gradclip.torch.parameters import (
    NeedClip,
    TorchParameters,
    are_sharded,
    chosen,
    gradients_of,
    here_of,
    parameters_of,
    processes,
)
from gradclip.torch.rate import lasting_rate
from gradclip.torch.shardings import Shardings, spread_of

if TYPE_CHECKING:
    from gradclip.torch.sharding import Sharding

TRITON = "triton"
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Whether Triton runs kernels in Python, on the CPU, which is slow and for tests."""
EACH_ITS_OWN = (
    "each process decides by the {names} that it was given itself, and may skip a step that another makes: give all of "
    "them the same number, such as the mean that torch.distributed.all_reduce makes (said once)"
)


class Clipper(clipper.Clipper):
    """Clips the gradients of PyTorch parameters by a rule.

    `need_clip` is a function of a parameter; one that it refuses is neither measured nor scaled, as is one with the
    attribute `need_clip=False`. `engine` is "cpu", "triton" or "torch"; None takes "cpu" for gradients on the CPU if
    numba is installed, else "torch", and `last.engine` says which it was; "triton" is for gradients on a CUDA device.
    `groups` and `pipeline` say which parameters only other processes have, so that a norm over all is over theirs too:
    `groups={"experts.*": group}` those that each process of a group has of its own under such names, `pipeline=group`
    those of the other stages. What lies in DTensors needs neither. The other arguments: `gradclip.clipper.Clipper`.

    >>> weight = torch.nn.Parameter(torch.zeros(2))
    >>> weight.grad = torch.tensor([3.0, 4.0])
    >>> Clipper(ClipGradByGlobalNorm(1.0)).clip_([weight]).norm_before
    5.0
    >>> weight.grad
    tensor([0.6000, 0.8000])
    """

    def __init__(
        self,
        rule: AnyRule,
        *,
        on_nonfinite: str = "keep",
        max_consecutive_skips: int | None = None,
        need_clip: NeedClip | None = None,
        engine: str | None = None,
        telemetry: Telemetry | None = None,
        groups: Mapping[str, torch.distributed.ProcessGroup] | None = None,
        pipeline: torch.distributed.ProcessGroup | None = None,
    ) -> None:
        super().__init__(
            rule, on_nonfinite=on_nonfinite, max_consecutive_skips=max_consecutive_skips, telemetry=telemetry
        )
        self.need_clip: NeedClip | None = checked_need_clip(need_clip)
        self._engine_name = checked_engine(engine)
        self._reported = self._said_given = False
        self._spread = spread_of(groups, pipeline)
        self._sharding: Sharding | None = None

    @eager
    def clip_(self, parameters: Any) -> Result:
        """Clip the gradients of `parameters` in place and return the result, whose float is the norm before.

        `parameters` is a module, an optimizer, an iterable of parameters or of (name, parameter), a dict or a tensor.
        When the step is to be skipped, every `.grad` becomes None, so that the optimizer has nothing to step on.
        """
        given = parameters_of(parameters)
        gradients = self.gradients_of(given, self.need_clip)
        if not self.takes_part(gradients):
            if given.tensors:
                report_none_found(any(p.requires_grad for p in given.tensors))
            return Result(self.step, torch_engine.CPU)
        engine = self.engine_for(gradients)
        self.hear_rate([parameters])
        if self._given:
            gradients = self.with_given(gradients, engine)
        result = self.clip_gradients(gradients, engine)
        if self.can_skip and result.skipped:
            drop(given.tensors)
        return result

    def takes_part(self, gradients: Gradients) -> bool:
        """Whether there is something to clip here, or in other processes, which wait for what this one has."""
        return bool(gradients.tensors) or self._spread is not None

    def _lay_out(self, line: LineUp) -> None:
        super()._lay_out(line)
        self._shardings = Shardings()  # the processes have not agreed on this rule

    def __getstate__(self) -> dict[str, Any]:
        """What a copy begins with: not with what processes have agreed on for the parameters of this one."""
        return {**super().__getstate__(), "_sharding": None}

    def tells(self) -> bool:
        """Whether this is rank 0, or the only process."""
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        return not distributed or torch.distributed.get_rank() == 0

    def hear_rate(self, sources: Iterable[Any]) -> None:
        """Hand over the rate of SGD, where the rule reads one, nobody has given it, and these are optimizers."""
        if RATE in self.reads_given - self._given.keys():
            optimizers = [found for source in sources if (found := inside(source)) is not None]
            if optimizers:
                self.give(rate=lasting_rate(optimizers))

    def with_given(self, gradients: Gradients, engine: Engine) -> Gradients:
        """`gradients` with the numbers that were given for this step."""
        numbers = self.taken_given()
        like = gradients.tensors[0] if self._sharding is None else self._sharding.like
        if self._sharding is not None:
            engine = engine_for([like], self._engine_name)
        own = [name for name in numbers if name != RATE]  # the rate is the same in all processes
        if own and processes() > 1 and not self._said_given:
            self._said_given = True
            warnings.warn(EACH_ITS_OWN.format(names=" and the ".join(own)), GradclipWarning, stacklevel=user_level())
        return gradients._replace(given={name: number_for(engine, number, like) for name, number in numbers.items()})

    def clip_gradients(self, gradients: Gradients, engine: Engine) -> Result:
        """As every clipper does; gradients that `engine` does not find on one device by an engine on each."""
        try:
            return super().clip_gradients(gradients, engine)
        except OnSeveralDevices:
            if self._engine_name == "cpu":
                raise
            return super().clip_gradients(gradients, on_several_devices(engine.name))
        except LiesOtherwise:
            assert self._sharding is not None
            return super().clip_gradients(gradients._replace(tensors=self._sharding.agreed_anew()), engine)

    def gradients_of(self, parameters: TorchParameters, need_clip: NeedClip | None) -> Gradients:
        """The gradients to clip of these parameters; of sharded ones what is here of each, and what may be."""
        if self._spread is None and not are_sharded(parameters.tensors):
            self._sharding = None
            return gradients_of(parameters, need_clip)
        found = chosen(parameters, need_clip)
        if not found.tensors and self._spread is None:
            return gradients_of(found)
        self._sharding = sharding = self._shardings.of(found, self._terms, self.listeners, self._spread)
        return Gradients(list(sharding.portions()), found.name, found.groups, sharding.weights, across=sharding.across)

    def updates_of(
        self, parameters: TorchParameters, updates: list[torch.Tensor], weights: list[torch.Tensor]
    ) -> Gradients:
        """What to clip where updates of the parameters are to be: of each what is here, and of the weights."""
        if self._spread is None and not are_sharded(parameters.tensors):
            self._sharding = None
            return Gradients(list(updates), parameters.name, parameters.groups, lambda: list(weights))
        self._sharding = sharding = self._shardings.of(parameters, self._terms, self.listeners, self._spread)
        own, old = (sharding.lying_as_parameters(tensors) for tensors in (updates, weights))
        return Gradients(list(own), parameters.name, parameters.groups, lambda: list(old), across=sharding.across)

    def state_dict(self) -> dict[str, Any]:
        """The memory, as that of every clipper; what is carried over of a DTensor is one, too."""
        state = super().state_dict()
        if self._sharding is not None and self.line.carries:
            state["carried"] = self._sharding.whole(state["carried"])
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up the memory that `state_dict` gave; a memory of another rule is refused."""
        super().load_state_dict(state)
        self.carried = {name: here_of(tensor) for name, tensor in self.carried.items()}

    def _terms(self) -> str:
        """What all processes have to have alike, beside the parameters."""
        return f"{self.rule!r} with on_nonfinite={self.on_nonfinite!r}"

    def engine_for(self, gradients: Gradients) -> Engine:
        """The engine that serves these gradients."""
        if self._sharding is None:
            return engine_for(gradients.tensors, self._engine_name)
        inner = engine_for([self._sharding.like], self._engine_name)
        return self._sharding.engine(inner, self.line.apart)


def checked_engine(name: str | None) -> str | None:
    """`name` if there is such an engine here, or the error that says what there is."""
    return choice.checked(name, "torch", "PyTorch", {"cpu": cpu_engine, TRITON: triton_engine})


def engine_for(tensors: list[torch.Tensor], name: str | None = None) -> Engine:
    """The engine called `name`, or the fastest that is installed for the device of the first tensor."""
    if name == TRITON:
        return on_cuda(tensors[0])
    if not getattr(tensors[0], "is_cpu", True):
        return torch_engine.DEVICE
    return torch_engine.CPU if name == "torch" else cpu_engine() or slow(torch_engine.CPU)


def on_cuda(like: torch.Tensor) -> Engine:
    """The engine of Triton, for gradients on a CUDA device; in its interpreter the kernels take those of the CPU."""
    engine = triton_engine()
    if engine is None or not (like.is_cuda or INTERPRETED):
        raise ValueError(
            f'the engine "triton" clips gradients on a CUDA device, and these are on {like.device}: leave engine= out'
        )
    return engine


@cache
def on_several_devices(name: str) -> Engine:
    """The engine of gradients that are on several devices; `name` is that of the one that was to serve them."""
    on_cuda_devices = triton_engine() if name == TRITON else None

    def on(device: torch.device) -> TorchEngine:
        wanted = on_cuda_devices if device.type == "cuda" or INTERPRETED else None
        return wanted if isinstance(wanted, TorchEngine) else torch_engine.DEVICE

    return DevicesEngine(TRITON if on_cuda_devices is not None else torch_engine.DEVICE.name, on)


@cache
def triton_engine() -> Engine | None:
    """The engine whose kernels are written in Triton; None where that is not installed."""
    if importlib.util.find_spec(TRITON) is None:
        return None
    from gradclip.engines import triton

    return triton.ENGINE


def cpu_engine() -> Engine | None:
    """The compiled engine for the CPU; None where numba is not installed."""
    return choice.compiled(torch_layout)


def number_for(engine: Engine, number: torch.Tensor | float, like: torch.Tensor) -> torch.Tensor | float:
    """A number or a tensor of one element as an array [1] on the device of `like`; a float for the compiled engine."""
    number = number.detach() if isinstance(number, torch.Tensor) else number
    if not isinstance(engine, TorchEngine):
        return one_float(number)
    wide = wide_of(like)
    if isinstance(number, torch.Tensor):
        return number.reshape(1).to(like.device, wide)
    return torch.full((1,), one_float(number), dtype=wide, device=like.device)


def drop(parameters: list[torch.Tensor]) -> None:
    """Take the gradients away, so that an optimizer leaves the parameters and its state alone."""
    for parameter in parameters:
        parameter.grad = None
