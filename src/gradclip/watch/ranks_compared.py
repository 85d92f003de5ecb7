"""What looks wrong with the clipping of a step once the processes that train together are compared: plain data."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from gradclip.watch.joining import AT_STEP, MADE, REST
from gradclip.watch.journal import BEFORE_REDUCTION, PER_RANK, STAGE, Flaw
from gradclip.watch.shares import Called, Layout, Part, StepShare

ALIKE, APART = 1e-6, 1e-3
"""Relative differences up to which norms are those of copies, and from which on they are of different gradients."""
CUT, UNIFORM, AT_LIMIT = 0.99, 1e-3, 1e-2
"""Factors below the first one cut; those of one clip by a norm differ by less than the second; the norms that it leaves
differ from its limit by less than the third."""
LEAST, SHARE = 2, 0.25
"""So many parameters, or this share of them, have to be copies, so that it is no chance."""


class OwnFactor(NamedTuple):
    """What code of the script's own did to all gradients of a process: one factor, and the norm that it left."""

    factor: float
    left: float


def flaws_across(shares: Sequence[StepShare], layouts: Sequence[Layout], sharded: bool, step_at: str) -> list[Flaw]:
    """What is wrong with a step of which each process has told.

    `sharded` says that all gradients are, and `step_at` is the line of the step.
    """
    found = [Flaw(PER_RANK, step_at)] if sharded and own_limits(shares) else []
    if len({len(share.calls) for share in shares}) != 1:
        return found
    for number, called in enumerate(shares[0].calls):
        name = flaw_of_call(number, [share.calls[number] for share in shares], shares, layouts) if called.acts else ""
        found += [Flaw(name, called.where, called.by)] if name else []
    return list(dict.fromkeys(found))


def flaw_of_call(
    number: int, calls: Sequence[Called], shares: Sequence[StepShare], layouts: Sequence[Layout]
) -> str | None:
    """What is wrong with a clip that every process has called."""
    before = [share.parts.get(str(number), {}) for share in shares]
    after = [share.parts.get(AT_STEP, {}) for share in shares]
    common = common_places(layouts, before)
    copies, others = chosen(common, before, are_alike), chosen(common, before, are_apart)
    if others and common == chosen(common, after, are_same):
        return BEFORE_REDUCTION
    if not are_apart([called.norm for called in calls]):
        return None
    if sharded_places(layouts, before):
        return STAGE if hand_on(shares) else PER_RANK
    own = [place for place in others if are_apart(norms_at(place, after))] or unlike(layouts)
    if own and len(copies) >= min(LEAST, SHARE * len(layouts[0].parameters)):
        return PER_RANK
    return STAGE if not copies and hand_on(shares) else None


def hand_on(shares: Sequence[StepShare]) -> bool:
    """Whether processes hand tensors on to single others, as stages of a pipeline do."""
    return sum(share.sends for share in shares) > 1


def unlike(layouts: Sequence[Layout]) -> bool:
    """Whether some process has parameters that others have not."""
    return len({tuple(layout.parameters) for layout in layouts}) > 1


def common_places(layouts: Sequence[Layout], parts: Sequence[Part]) -> list[int]:
    """The places of whole parameters that all processes have alike, by their name, and have measured."""
    known = set(parts[0]).intersection(*parts[1:])
    return [
        place
        for place in sorted(known)
        if len({layout.parameters[place] for layout in layouts}) == 1 and not layouts[0].parameters[place][2]
    ]


def sharded_places(layouts: Sequence[Layout], parts: Sequence[Part]) -> list[int]:
    """The places of parameters that are sharded in the first process."""
    return [place for place in parts[0] if layouts[0].parameters[place][2]]


def chosen(places: Iterable[int], parts: Sequence[Part], are_so: Callable[[Sequence[float | None]], bool]) -> list[int]:
    """Those of the places at which the norms of all processes are so."""
    return [place for place in places if are_so(norms_at(place, parts))]


def norms_at(place: int, parts: Sequence[Part]) -> list[float | None]:
    """The norms of all processes at a place."""
    return [part.get(place, (None, 0.0))[0] for part in parts]


def are_alike(norms: Sequence[float | None]) -> bool:
    """Whether these are norms of copies that are not zero."""
    spread = spread_of_norms(norms)
    return spread is not None and spread <= ALIKE


def are_same(norms: Sequence[float | None]) -> bool:
    """Whether these are norms of copies, of zeros too."""
    return are_alike(norms) or all(norm == 0.0 for norm in norms)


def are_apart(norms: Sequence[float | None]) -> bool:
    """Whether some of these are norms of different gradients."""
    spread = spread_of_norms(norms)
    return spread is not None and spread >= APART


def spread_of_norms(norms: Sequence[float | None]) -> float | None:
    """The relative difference of the largest from the smallest; None where one is unknown, not finite, or all are 0."""
    known = [norm for norm in norms if norm is not None and math.isfinite(norm)]
    largest = max(known, default=0.0)
    return None if len(known) < len(norms) or largest <= 0.0 else (largest - min(known)) / largest


def own_limits(shares: Sequence[StepShare]) -> bool:
    """Whether code of the script's own has cut what each process has of the gradients to one norm, each by itself."""
    factors = [factor_of(share.parts.get(MADE, {}), share.parts.get(REST, {})) for share in shares]
    known = [one for one in factors if one is not None]
    cut = [one for one in known if one.factor < CUT]
    if len(known) < len(shares) or len(cut) < LEAST or any(share.calls for share in shares):
        return False
    limit = max(one.left for one in cut)
    at_limit = all(one.left >= (1.0 - AT_LIMIT) * limit for one in cut)
    below = all(one.left <= (1.0 + AT_LIMIT) * limit for one in known)
    return at_limit and below and are_apart([one.factor for one in known])


def factor_of(made: Mapping[int, tuple[float, float]], left: Mapping[int, tuple[float, float]]) -> OwnFactor | None:
    """The one factor by which all gradients of a process were multiplied since they were made, if it is one."""
    if not made or made.keys() != left.keys():
        return None
    factors = [left[place][0] / norm for place, (norm, _) in made.items() if norm > 0.0]
    if not factors or not all(map(math.isfinite, factors)) or max(factors) - min(factors) > UNIFORM * max(factors):
        return None
    return OwnFactor(max(factors), math.hypot(*(norm for norm, _ in left.values())))
