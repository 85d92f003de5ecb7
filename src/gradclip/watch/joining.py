"""From what each process measured of its shards to the norms of whole gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from gradclip.watch.gradient_norms import GradientNorms, combined_norm
from gradclip.watch.shards import as_whole, is_sharded
from gradclip.watch.shares import Called, Layout, Part, StepShare
from gradclip.watch.step_events import WatchedStep

REST, PEAK, MADE, AT_STEP = "rest", "peak", "made", "at step"
"""The sets of gradients that are measured in a step beside those of its clips, which have numbers."""


class Place(NamedTuple):
    """This process among those that train together: its rank, and where each parameter is in the optimizer."""

    rank: int
    places: Mapping[int, int]
    layout: Layout


def place_in(rank: int, parameters: Sequence[object], names: Mapping[int, str]) -> Place:
    """The place of a process that steps these parameters."""
    shapes = [(names.get(id(p), "?"), tuple(getattr(p, "shape", ())), is_sharded(p)) for p in parameters]
    return Place(rank, {id(p): index for index, p in enumerate(parameters)}, Layout(shapes))


def measured_in(step: WatchedStep) -> dict[str, GradientNorms]:
    """The sets of gradients that were measured in a step, by name."""
    found = {str(number): applied.clip.norms_before for number, applied in enumerate(step.examined.applied)}
    found[REST] = step.rest
    made = step.examined.made
    more = {PEAK: step.peak, MADE: None if made is None else made.norms, AT_STEP: step.at_step}
    return found | {name: norms for name, norms in more.items() if norms is not None}


def with_measured(step: WatchedStep, found: Mapping[str, GradientNorms]) -> WatchedStep:
    """The step with other norms in the place of those that were measured."""
    applied = [
        one._replace(clip=one.clip._replace(norms_before=found[str(number)]))
        for number, one in enumerate(step.examined.applied)
    ]
    made = step.examined.made
    made = None if made is None or not found[MADE].whole else made._replace(norms=found[MADE])
    examined = step.examined._replace(applied=applied, made=made)
    return step._replace(examined=examined, rest=found[REST], peak=found.get(PEAK))


def share_of(step: WatchedStep, place: Place) -> StepShare:
    """What this process has to tell of a step: of its shards, and of all where they are to be compared."""
    parts = {name: part_of(norms, place, step.compares) for name, norms in measured_in(step).items()}
    calls = [
        Called(one.clip.where, one.clip.by, number_of(one.clip.norm), not one.clip.measures)
        for one in step.examined.applied
    ]
    return StepShare(step.number, parts, calls, step.compares, step.sends)


def part_of(norms: GradientNorms, place: Place, every: bool) -> Part:
    """What was measured, by place in the optimizer, of shards or of every gradient."""
    read = norms.read()
    return {place.places[key]: read[key] for key in read if key in place.places and (every or key in norms.tellers)}


def number_of(norm: object) -> float | None:
    """What a clip returned, if it is one number."""
    known = as_whole(norm)
    try:
        return None if known is None else float(known)
    except (TypeError, ValueError, RuntimeError):
        return None


def joined(
    step: WatchedStep, place: Place, shares: Mapping[int, StepShare], layouts: Mapping[int, Layout]
) -> WatchedStep:
    """The step with the norms of whole gradients, as far as all who have a part have told of it."""
    found = {}
    for name, norms in measured_in(step).items():
        parts = {rank: share.parts.get(name, {}) for rank, share in shares.items()}
        found[name] = of_wholes(norms, place, parts, layouts) if norms.tellers else norms
    return with_measured(step, found)


def of_wholes(
    norms: GradientNorms, place: Place, parts: Mapping[int, Part], layouts: Mapping[int, Layout]
) -> GradientNorms:
    """The norms of whole gradients; those are left out of which a part is not known."""
    found = GradientNorms([], norms.order, [], [])
    for key, own in norms.read().items():
        at = place.places.get(key, -1)
        told = [own] if key not in norms.tellers else []
        for rank in norms.tellers.get(key, ()):
            alike = rank in layouts and layouts[rank].is_like(place.layout, at)
            told.append(own if rank == place.rank else parts.get(rank, {}).get(at, UNKNOWN) if alike else UNKNOWN)
        if not told or UNKNOWN in told:
            found = found._replace(whole=False)
            continue
        found.parameters.append(key)
        found.norms.append(combined_norm((norm for norm, _ in told), norms.order))
        found.nonfinite.append(sum(count for _, count in told))
    return found


UNKNOWN = (-1.0, 0.0)
"""What stands for a part that nobody told of; no norm is below 0."""


def tellers_in(step: WatchedStep) -> set[int]:
    """The ranks that have parts of what was measured in a step."""
    return {rank for norms in measured_in(step).values() for ranks in norms.tellers.values() for rank in ranks}


def is_known(step: WatchedStep) -> bool:
    """Whether the norm of a step is known, be it by its parts or because a clip returned it."""
    clips = [one.clip for one in step.examined.applied]
    told = all(clip.norms_before.whole or number_of(clip.norm) is not None for clip in clips)
    return told and (bool(clips) or step.rest.whole)
