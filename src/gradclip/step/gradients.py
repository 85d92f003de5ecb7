"""What a door hands over: the gradients of one step and what stands beside them, for an engine to gather."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from gradclip.engines.base import Across, Engine, UnsupportedGradient


class Gradients(NamedTuple):
    """The gradients of one step, as a door hands them over.

    `name(i)` is the name of tensor i; `groups` its parameter group; `weights()` the parameters, tensor by tensor.
    `divisor` is what the optimizer will divide the gradients by (a loss scale); thresholds mean the divided ones.
    `across` says how to sum up over processes that hold other parts of the gradients. `given` are numbers beside the
    gradients that a rule may read, by name: floats, or arrays [1] of the engine. `moments()` are the second
    moments that the optimizer has of each gradient, None for one that it has not seen yet. `broken` says that a part of
    the rule which came before met an element that is not finite: then the others learn nothing. `overflow` is above 0
    where a loss scaler leaves the step out.
    """

    tensors: list[Any]
    name: Callable[[int], str]
    groups: Sequence[int] | None = None
    weights: Callable[[], list[Any]] | None = None
    divisor: Any = 1.0
    across: Across | None = None
    given: Mapping[str, Any] = {}
    moments: Callable[[], list[Any]] | None = None
    broken: Any = None
    overflow: Any = None

    def only(self, indices: list[int]) -> Gradients:
        """The gradients at `indices`."""
        name, groups = self.name, self.groups
        return self._replace(
            tensors=[self.tensors[i] for i in indices],
            name=lambda i: name(indices[i]),
            groups=None if groups is None else [groups[i] for i in indices],
            weights=_some_of(self.weights, indices),
            moments=_some_of(self.moments, indices),
        )


def _some_of(every: Callable[[], list[Any]] | None, indices: list[int]) -> Callable[[], list[Any]] | None:
    """`every` for those at `indices`; it is asked once for all of them."""
    return None if every is None else lambda: list(map(every().__getitem__, indices))


def gathered_once(engine: Engine, gradients: Gradients) -> tuple[Gradients, Any]:
    """The gradients without those whose memory came before, and their batch: each counts and is scaled once."""
    batch = gathered(engine, gradients)
    again = engine.repeated(batch)
    if not again:
        return gradients, batch
    gradients = gradients.only([i for i in range(len(gradients.tensors)) if i not in again])
    return gradients, gathered(engine, gradients)


def gathered(engine: Engine, own: Gradients) -> Any:
    """The batch of the gradients, or the error that names the one that `engine` cannot take."""
    try:
        return engine.gather(own.tensors)
    except UnsupportedGradient as error:
        raise refused(own, error) from None


def refused(own: Gradients, error: UnsupportedGradient) -> TypeError:
    """The error of an engine, with the name of the gradient."""
    return TypeError(f"the gradient of {own.name(error.index)!r} cannot be clipped: {error.reason}")
