"""The norm of each gradient, measured without a wait for the device, and read later."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch

from gradclip.engines.torch import CPU, DEVICE
from gradclip.rules.norm import L2, Linf
from gradclip.rules.scope import Tensor
from gradclip.torch.clipper import cpu_engine
from gradclip.torch.parameters import processes
from gradclip.watch.shards import Ranks, is_sharded, local_part, tellers_of

SCOPE = Tensor()
SMALL = 1 << 16
LEAST, MOST = 1e-15, 1e15


class GradientNorms(NamedTuple):
    """The norm of each gradient of `parameters` (by `id`), of order 2 or infinity, and its non-finite elements.

    Both are lists of numbers and of arrays, in the order of the parameters; arrays lie on a device. Of a gradient that
    is sharded they are those of the part here, and `tellers` has the ranks whose parts are the whole. It is not `whole`
    where some parts are not known.
    """

    parameters: list[int]
    order: float
    norms: list[Any]
    nonfinite: list[Any]
    tellers: Mapping[int, Ranks] = MappingProxyType({})
    whole: bool = True

    def read(self, scale: float = 1.0) -> dict[int, tuple[float, float]]:
        """The norm over `scale` and the number of non-finite elements by parameter; this waits for the device."""
        norms = [norm / scale for norm in flat(self.norms)]
        return dict(zip(self.parameters, zip(norms, flat(self.nonfinite), strict=True), strict=True))


def flat(numbers: Iterable[Any]) -> list[float]:
    """Numbers and arrays of numbers as one list."""
    return [number for some in numbers for number in ([some] if isinstance(some, int | float) else some.tolist())]


@torch.no_grad()
def measure_gradients(parameters: Iterable[torch.Tensor], order: float) -> GradientNorms:
    """Measure the gradients of those that have one, of one that is sharded what is here: no process asks another."""
    small: list[tuple[int, torch.Tensor]] = []
    others: list[tuple[int, torch.Tensor]] = []
    tellers: dict[int, Ranks] = {}
    pieces = processes() > 1
    for parameter in parameters:
        if (gradient := parameter.grad) is not None:
            if pieces and getattr(parameter, "_fsdp_flattened", False):
                raise TypeError("gradients that FullyShardedDataParallel has cut cannot be watched yet")
            if is_sharded(gradient):
                tellers[id(parameter)] = tellers_of(gradient)
                gradient = local_part(gradient)
            (small if is_small(gradient) else others).append((id(parameter), gradient))
    found = GradientNorms([], order, [], [], tellers)
    if small:
        # a third of the time that float64 takes; what float32 may have rounded away or let overflow is looked at again
        norms = torch.stack(torch._foreach_norm([gradient for _, gradient in small], order)).tolist()
        sure = [LEAST < norm < MOST for norm in norms]
        found.parameters.extend(key for (key, _), fine in zip(small, sure, strict=True) if fine)
        found.norms.extend(norm for norm, fine in zip(norms, sure, strict=True) if fine)
        found.nonfinite.extend([0] * len(found.norms))
        others += [one for one, fine in zip(small, sure, strict=True) if not fine]
    measure_others(found, others)
    return found


def measure_others(found: GradientNorms, gradients: Iterable[tuple[int, torch.Tensor]]) -> None:
    """Add gradients of any kind, on any device, measured in float64."""
    devices: dict[torch.device, list[tuple[int, torch.Tensor]]] = {}
    for key, gradient in gradients:
        devices.setdefault(gradient.device, []).append((key, gradient))
    for device, on_device in devices.items():
        engine = (cpu_engine() or CPU) if device.type == "cpu" else DEVICE
        norm = Linf() if found.order == math.inf else L2()
        measure = engine.measure(engine.gather([unwritten(gradient) for _, gradient in on_device]), SCOPE, norm)
        found.parameters.extend(key for key, _ in on_device)
        total = measure.total if norm.combine == "max" else measure.xp.sqrt(measure.total)
        found.norms.append(total * measure.scale)
        found.nonfinite.append(measure.nonfinite)


def unwritten(gradient: torch.Tensor) -> torch.Tensor:
    """The gradient, or for a sparse one a copy: an engine sums up its repeated indices in place."""
    return gradient.coalesce() if gradient.layout is torch.sparse_coo else gradient


def is_small(gradient: torch.Tensor) -> bool:
    """Whether a sum of its squares in float32 is right to some 1e-5: a dense one on the CPU, of 65,536 at most."""
    plain = gradient.dtype is torch.float32 and gradient.layout is torch.strided and type(gradient) is torch.Tensor
    return plain and gradient.device.type == "cpu" and 0 < gradient.numel() <= SMALL


def combined_norm(norms: Iterable[float], order: float) -> float:
    """The norm of the whole from the norms of its parts."""
    values = list(norms)
    return max(values, default=0.0) if order == math.inf else math.hypot(*values)


def first_gradient(parameters: Iterable[torch.Tensor]) -> Any:
    """The first gradient there is."""
    return next((p.grad for p in parameters if p.grad is not None), None)
