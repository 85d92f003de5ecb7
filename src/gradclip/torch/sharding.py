"""Parameters whose gradients are in several processes: who has what is agreed on once, before the first clip.

Two messages of each largest set of processes do it. The first has four numbers and shows whether all have the same
parameters and the same rule; the second has three for each parameter: how its gradient lies, for those that have none
yet, and who speaks for it. From then on each step has messages of a size that all know.
"""

from __future__ import annotations

import hashlib
import operator
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed._functional_collectives import AsyncCollectiveTensor
from torch.distributed.tensor import DTensor

from gradclip.engines.base import Across, Engine, Tables
from gradclip.engines.torch_layout import hold_float64
from gradclip.engines.torch_placement import Placed, Portion, code_of, placements_of, portions_of
from gradclip.engines.torch_ranks import Ranks, sets_of
from gradclip.engines.torch_sharded import ShardedEngine
from gradclip.engines.torch_unsummed import UNSUMMED
from gradclip.torch.parameters import attributes_at_once, here_of
from gradclip.torch.spread import SpreadOver

MIXED = (
    "the gradient of {!r} does not lie alike in all processes, here as {}: all of them have to have parts of one "
    "tensor, or copies; redistribute() it"
)
NO_WORD = "the gradient of {!r} lies as {}, which gradclip does not know: redistribute() it to Shard or Replicate first"
UNLIKE = (
    "the parameters to clip are not the same in all processes: {}. Hand the same parameters over in the same order "
    "everywhere, also those that have no gradient; nothing was written"
)
OTHER_RULE = "the processes do not clip by one rule: {}; nothing was written"


class Sharding:
    """How the gradients of a list of parameters lie, as all processes know it.

    `name` names the i-th, `rule` is what they are clipped by in words, `listeners` says what telemetry here wants.
    `themselves` says that the parameters are gradients.
    """

    def __init__(
        self,
        parameters: Sequence[torch.Tensor],
        name: Callable[[int], str],
        rule: str,
        listeners: int = 0,
        themselves: bool = False,
        spread: SpreadOver | None = None,
    ) -> None:
        self._gradient = _itself if themselves else operator.attrgetter("grad")
        self.tables: Tables = Tables()
        self._known = [weakref.ref(p) for p in parameters]
        self._name = name
        names = [] if spread is None else list(map(name, range(len(parameters))))
        own = [False] * len(parameters) if spread is None else list(map(spread.has, names))
        self._own = list(map(_placed_as, parameters, own))
        self.sets: list[Ranks] = sets_of(placed.mesh for placed in self._own if placed.mesh is not None)
        self._agreeing = list(_agreeing(self.sets, self._own))
        self.like: torch.Tensor = torch.empty(0, device=local_of(parameters[0]).device if parameters else None)
        self.across: Across | None = None
        if spread is not None:
            self.across = spread.across(names, hold_float64(parameters), self.like.device)
        self._refuse_unlike(rule, [] if spread is None else spread.every)
        self.placed: list[Placed] = []
        self.listeners: int = listeners
        self._agree()

    def serves(self, parameters: Sequence[torch.Tensor]) -> bool:
        """Whether it was made for these very parameters."""
        alike = len(parameters) == len(self._known)
        return alike and all(map(operator.is_, parameters, map(operator.call, self._known)))

    @property
    def parameters(self) -> list[torch.Tensor]:
        """The parameters, which somebody else keeps alive."""
        return [p for known in self._known if (p := known()) is not None]

    @property
    def gradients(self) -> list[torch.Tensor]:
        """The gradients that this process has."""
        return [g for g in map(self._gradient, self.parameters) if g is not None]

    def agreed_anew(self) -> list[Portion]:
        """The gradients as portions, once more agreed on."""
        self._agree()
        return self.portions()

    def engine(self, inner: Engine, apart: bool) -> ShardedEngine:
        """The engine for the portions; `inner` is the one for what is here."""
        apart, beside = apart and not self.listeners, self.across is not None
        return ShardedEngine(inner, self.sets, self.like.device, apart, self.listeners, beside)

    def _agree(self) -> None:
        """Find out how the gradients lie, also those that this process does not have, and who speaks for each."""
        gradients = list(map(self._gradient, self.parameters))
        codes = [_code(g, self._name, index) for index, g in enumerate(gradients)]
        speakers: list[int | None] = [None] * len(codes)
        for ranks, agreed_on in self._agreeing:
            heard = self._heard(ranks, agreed_on, codes)
            for index, (code, least, speaker) in zip(agreed_on, heard, strict=True):
                if code and least and code != -least:
                    raise TypeError(MIXED.format(self._name(index), _placement_of(gradients[index])))
                codes[index] = code or codes[index]
                speakers[index] = -speaker if speaker > -NOBODY else None
        self.placed = [_with(own, code, speaker) for own, code, speaker in zip(self._own, codes, speakers, strict=True)]
        self._specs: list[Any] = []

    def _heard(self, ranks: Ranks, indices: Sequence[int], codes: Sequence[int]) -> list[list[int]]:
        """The largest and the smallest code of each gradient, with its sign, and the first that has the tensor."""
        me = dist.get_rank()
        has = [placed.coordinate is not None for placed in self._own]
        rows = [[codes[i], -codes[i] if codes[i] else -LARGEST, -me if has[i] else -NOBODY] for i in indices]
        told = torch.tensor([[self.listeners, 0, 0], *rows], dtype=torch.int64, device=self.like.device)
        (self.listeners, _, _), *found = ranks.reduce_(told, "max").tolist()
        return [[code, least if least > -LARGEST else 0, speaker] for code, least, speaker in found]

    def _refuse_unlike(self, rule: str, others: Sequence[Ranks]) -> None:
        """Raise in every process where the parameters or the rules differ, in words that say which.

        The `others` have parameters of their own.
        """
        for ranks in others:
            if not _alike(ranks, [rule], self.like.device):
                raise ValueError(_difference(ranks, [(text, [], []) for text in ranks.gathered(rule)]))
        for ranks, agreed_on in self._agreeing:
            mine = [_text(self._own[i]) for i in agreed_on]
            if not _alike(ranks, [rule, *mine], self.like.device):
                named = [f"{self._name(i)!r} {text}" for i, text in zip(agreed_on, mine, strict=True)]
                every = ranks.gathered((rule, named, mine))
                raise ValueError(_difference(ranks, every))

    def portions(self) -> list[Portion]:
        """The gradients of the parameters as portions."""
        with attributes_at_once():
            gradients = list(map(self._gradient, self.parameters))
        if self._specs and (here := self._lying_as_before(gradients)) is not None:
            return portions_of(here, self.placed)
        moved = [self._moved(*pair) for pair in zip(gradients, self.placed, strict=True)]
        dtensors = all(isinstance(gradient, DTensor) for gradient in gradients)
        self._specs = list(map(SPEC, gradients)) if dtensors and not any(moved) else []
        return [
            Portion(None if gradient is None or other else local_of(gradient), placed, other)
            for gradient, placed, other in zip(gradients, self.placed, moved, strict=True)
        ]

    def _lying_as_before(self, gradients: Sequence[torch.Tensor | None]) -> list[torch.Tensor] | None:
        """What is here of each gradient, if all are DTensors that say by the same objects how they lie."""
        if not {DTensor}.issuperset(map(type, gradients)):
            return None
        if not all(map(operator.is_, map(SPEC, gradients), self._specs)):
            return None
        here = list(map(HERE, gradients))
        return here if {torch.Tensor}.issuperset(map(type, here)) else None

    @staticmethod
    def _moved(gradient: torch.Tensor | None, placed: Placed) -> bool:
        """Whether a gradient does not lie as all were told."""
        if not isinstance(gradient, DTensor):
            return gradient is not None and placed.mesh is not None
        return placed.mesh != gradient.device_mesh or tuple(placed.placements) != tuple(gradient.placements)

    def weights(self) -> list[Portion]:
        """The parameters themselves as portions."""
        return self.lying_as_parameters(list(map(local_of, self.parameters)))

    def lying_as_parameters(self, tensors: Sequence[torch.Tensor]) -> list[Portion]:
        """What this process has of tensors that lie as the parameters do, as portions."""
        return [Portion(tensor, placed) for tensor, placed in zip(tensors, self._own, strict=True)]

    def whole(self, here: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Of each parameter the tensor that is `here` under its name, or zeros, lying as the parameter does."""
        names = map(self._name, range(len(self._own)))
        return {name: _beside(p, here.get(name)) for name, p in zip(names, self.parameters, strict=True)}

    @staticmethod
    def here_of(tensors: Sequence[torch.Tensor | None]) -> list[torch.Tensor | None]:
        """What this process has of each."""
        return [None if tensor is None else local_of(tensor) for tensor in tensors]


SPEC, HERE = operator.attrgetter("_spec"), operator.attrgetter("_local_tensor")
"""How a DTensor lies and what this process has of it: a loop over them in Python takes several times as long."""

NOBODY = 2**40
"""More than any rank."""
LARGEST = 2**62


def local_of(tensor: torch.Tensor) -> torch.Tensor:
    """What this process has of a tensor, in the same memory."""
    local = here_of(tensor)
    return local.wait() if isinstance(local, AsyncCollectiveTensor) else local


def _placed_as(tensor: torch.Tensor, own: bool) -> Placed:
    if not isinstance(tensor, DTensor):
        return Placed(tuple(tensor.shape), tensor.dtype, own=own)
    return Placed(tuple(tensor.shape), tensor.dtype, tensor.device_mesh, tuple(tensor.placements), own=own)


def _agreeing(sets: Sequence[Ranks], own: Sequence[Placed]) -> Iterator[tuple[Ranks, list[int]]]:
    """The sets of processes that agree, each with the indices of what it agrees on, of tensors that lie as `own`.

    The largest ones do on all that all have, and of what others have something else for those who have it.
    """
    shared = {placed.members for placed in own if not placed.own}
    for ranks in sets:
        within = any(set(ranks.members) < set(other) for other in shared)
        if ranks.members in shared and not within:
            yield ranks, [i for i, placed in enumerate(own) if not placed.own]
    for ranks in sets:
        if theirs := [i for i, placed in enumerate(own) if placed.own and placed.members == ranks.members]:
            yield ranks, theirs


def refuse_unsummed(gradients: Sequence[torch.Tensor]) -> None:
    """Refuse gradients that are sums over processes not done yet, by their places."""
    for index, gradient in enumerate(gradients):
        if isinstance(gradient, DTensor) and any(placement.is_partial() for placement in gradient.placements):
            raise TypeError(f"the gradient of parameters[{index}] cannot be clipped: {UNSUMMED}")


def _beside(parameter: torch.Tensor, here: torch.Tensor | None) -> torch.Tensor:
    """A tensor, or zeros, that lies as a parameter does, where this process has `here`."""
    own = local_of(parameter).detach()
    here = torch.zeros_like(own, dtype=torch.promote_types(own.dtype, torch.float32)) if here is None else here
    if not isinstance(parameter, DTensor):
        return here
    mesh, placements = parameter.device_mesh, parameter.placements
    return DTensor.from_local(here, mesh, placements, run_check=False, shape=parameter.shape, stride=parameter.stride())


def _itself(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def _placement_of(gradient: torch.Tensor | None) -> str:
    return str(tuple(gradient.placements)) if isinstance(gradient, DTensor) else "one that is no DTensor"


def _code(gradient: torch.Tensor | None, name: Callable[[int], str], index: int) -> int:
    """How a gradient lies, as a number; 0 where there is none, or no DTensor."""
    if not isinstance(gradient, DTensor):
        return 0
    code = code_of(tuple(gradient.placements))
    if not code:
        raise TypeError(NO_WORD.format(name(index), tuple(gradient.placements)))
    return code


def _with(own: Placed, code: int, speaker: int | None) -> Placed:
    """How a gradient lies whose parameter lies as `own`."""
    placements = placements_of(code) if code else own.placements
    return Placed(own.shape, own.dtype, own.mesh, placements, speaker, own.own)


def _text(placed: Placed) -> str:
    """A parameter in words that all processes have alike."""
    if placed.mesh is None:
        return f"{placed.shape} {placed.dtype}"
    mesh = tuple(placed.mesh.shape)
    return f"{placed.shape} {placed.dtype} as {placed.placements} on a mesh {mesh}"


def _alike(ranks: Ranks, texts: Sequence[str], device: torch.device) -> bool:
    """Whether all processes of a set have the same texts: their digests' largest and smallest numbers are one."""
    digest = hashlib.blake2b("\n".join(texts).encode(), digest_size=14).digest()
    words = [int.from_bytes(part, "little") for part in (digest[:7], digest[7:])]
    told = torch.tensor([*words, *(-word for word in words)], dtype=torch.int64, device=device)
    largest, smallest = ranks.reduce_(told, "max").reshape(2, 2)
    return bool((largest == -smallest).all())


def _difference(ranks: Ranks, every: Sequence[tuple[str, list[str], list[str]]]) -> str:
    """What the processes of a set do not have alike, in words."""
    (rule, named, texts), first = every[0], ranks.members[0]
    for rank, (other_rule, other_named, other) in zip(ranks.members, every, strict=True):
        if len(other) != len(texts):
            return UNLIKE.format(f"rank {first} has {len(texts)} and rank {rank} has {len(other)}")
        for one, another, a, b in zip(texts, other, named, other_named, strict=True):
            if one != another:
                return UNLIKE.format(f"where rank {first} has {a}, rank {rank} has {b}")
        if other_rule != rule:
            return OTHER_RULE.format(f"rank {first} by {rule} and rank {rank} by {other_rule}")
    return UNLIKE.format("they cannot be told apart")
