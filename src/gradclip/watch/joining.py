"""From what each process measured of its shards to the norms of whole gradients."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from gradclip.rules.norm import L2, Linf
from gradclip.rules.scope import Global
from gradclip.step.result import Result
from gradclip.telemetry.event import Event
from gradclip.watch.gradient_norms import GradientNorms, combined_norm
from gradclip.watch.journal import ClipCall
from gradclip.watch.shards import as_whole, is_sharded
from gradclip.watch.shares import Called, Layout, Part, StepShare
from gradclip.watch.step_events import WatchedStep

REST, PEAK, MADE, AT_STEP, PEAK_AT_STEP = "rest", "peak", "made", "at step", "peak at step"
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
    more = {PEAK: step.peak, MADE: None if made is None else made.norms}
    more |= {AT_STEP: step.at_step, PEAK_AT_STEP: step.peak_at_step}
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
    step = step._replace(at_step=found.get(AT_STEP), peak_at_step=found.get(PEAK_AT_STEP))
    return step._replace(examined=examined, rest=found[REST], peak=found.get(PEAK))


def share_of(step: WatchedStep, place: Place) -> StepShare:
    """What this process has to tell of a step: of its shards, and of all where they are to be compared."""
    parts = {name: part_of(norms, place, step.compares) for name, norms in measured_in(step).items()}
    calls = [called(one.clip) for one in step.examined.applied]
    return StepShare(step.number, parts, calls, step.compares, step.sends)


def called(clip: ClipCall) -> Called:
    """A clip, as this process called it; of a rule the norm, if it is one of all tensors together."""
    acts, result = not clip.measures, clip.norm
    if not isinstance(result, Result):
        return Called(clip.where, clip.by, number_of(result), acts)
    together = all(isinstance(part.sweep.stages[0].scope, Global) for part in result.parts)
    norm = result.norm_before if together else None
    return Called(clip.where, clip.by, norm, acts, result.coefficient, result.threshold)


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
    measured, found = measured_in(step), {}
    if not any(norms.tellers for norms in measured.values()):
        return step
    for name, norms in measured.items():
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
    every = {id(ranks): ranks for norms in measured_in(step).values() for ranks in norms.tellers.values()}
    return {rank for ranks in every.values() for rank in ranks}


def is_known(step: WatchedStep) -> bool:
    """Whether the norm of a step is known, be it by its parts or because a clip returned it."""
    clips = [one.clip for one in step.examined.applied]
    told = all(clip.norms_before.whole or number_of(clip.norm) is not None for clip in clips)
    return told and (bool(clips) or step.rest.whole)


def of_all(event: Event, step: WatchedStep, calls: Iterable[Called]) -> Event:
    """The event of a rule that each process applies to what it has, of all of them; `calls` are what others did."""
    sets = {type(L2()).__name__: (step.rest, step.at_step), type(Linf()).__name__: (step.peak, step.peak_at_step)}
    before, after = sets.get(event.norm, (None, None))
    if before is None or after is None or not (before.whole and after.whole):
        return event
    norms, left = before.read(), after.read()
    hardest = min([(event.coefficient, event.threshold), *((one.coefficient, one.threshold) for one in calls)])
    return replace(
        event,
        norm_before=combined_norm((norm for norm, _ in norms.values()), before.order),
        norm_after=combined_norm((norm for norm, _ in left.values()), after.order),
        coefficient=hardest[0],
        threshold=hardest[1],
        clipped=event.clipped or hardest[0] < 1.0,
        nonfinite=int(sum(count for _, count in norms.values())),
    )
