"""Which agreement of the processes serves which parameters: the one of the last steps, or a new one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gradclip.torch.parameters import TorchParameters

if TYPE_CHECKING:
    from gradclip.torch.sharding import Sharding
    from gradclip.torch.spread import SpreadOver

MOST = 8
"""Lists of parameters that are known at once; beyond, the oldest is agreed on anew."""


class Shardings:
    """The agreements that were made, the last one first; a copy knows of none."""

    def __init__(self) -> None:
        self._known: list[Sharding] = []

    def of(
        self,
        parameters: TorchParameters,
        terms: Callable[[], str],
        listeners: int = 0,
        spread: SpreadOver | None = None,
    ) -> Sharding:
        """The agreement on these parameters, which all processes make together where it is new."""
        for known in self._known:
            if known.serves(parameters.tensors):
                if known is not self._known[0]:
                    self._known.remove(known)
                    self._known.insert(0, known)
                return known
        self._known[MOST - 1 :] = []
        self._known.insert(0, agreed(parameters, terms(), listeners, spread=spread))
        return self._known[0]

    def __deepcopy__(self, memo: Any) -> Shardings:
        return Shardings()

    def __reduce__(self) -> tuple[type[Shardings], tuple[()]]:
        return Shardings, ()


def agreed(
    parameters: TorchParameters,
    terms: str,
    listeners: int = 0,
    themselves: bool = False,
    spread: SpreadOver | None = None,
) -> Sharding:
    """A new agreement of all processes; `themselves` says that these are no parameters but gradients."""
    from gradclip.torch.sharding import Sharding  # which imports what only sharded tensors need

    return Sharding(parameters.tensors, parameters.name, terms, listeners, themselves, spread)


def spread_of(groups: Any, pipeline: Any) -> SpreadOver | None:
    """Which parameters only other processes have, as a user says it; None where nothing is said."""
    if groups is None and pipeline is None:
        return None
    from gradclip.torch.spread import SpreadOver, checked_group, checked_groups

    return SpreadOver(checked_groups(groups), checked_group(pipeline, "pipeline"))
