"""What a script did between two steps of an optimizer, and what of it looks wrong: plain data, no framework."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

CALLS = "calls.jsonl"
SCRIPT = "script"
"""The file beside the events, and what `run.json` has of the script."""

ABOVE = 1.001
"""A number over a threshold that nothing cut; below this it may have been clipped, and rounded."""
MEASURES = 1e6
"""From this threshold on a call is a way to learn the norm; most write infinity."""
NORM, VALUE, RULE = "norm", "value", "rule"
"""What a call clips by; a rule of this library knows itself what it did."""

OWN_CODE = "own code before the step"
"""What changed gradients between backward and the step, if no function did that is known."""

BY_HAND = "updates by hand"
"""What stands for the optimizer where the script updates its parameters itself."""

EMPTY = "exhausted-iterator"
NO_PARAMETERS = "gradients-not-parameters"
AFTER_STEP = "after-step"
BEFORE_BACKWARD = "before-backward"
BEFORE_UNSCALE = "before-unscale"
MICRO_STEP = "micro-step"
TWICE = "twice"
TWO_KNOBS = "two-knobs"
GROUP_EXCLUDED = "group-excluded"
SOME_ONLY = "some-parameters-only"
OVERFLOW = "overflow"
NO_LIMIT = "threshold-of-zero"
BEFORE_CLOSURE = "before-closure"
NOT_ZEROED = "not-zeroed"
OTHER_MODEL = "other-model"
UNTRAINED = "untrained-parameters"


def nothing() -> None:
    """No gradient."""


class Backward(NamedTuple):
    """Gradients of these losses, which may lie on a device, were made, or added to those that were there.

    Of the optimizers, by `id`, those that `missed` it got none of them, those that were `fresh` had none before, and
    those that were `used` had those that their last step used already. `norms` has for some of the others what was
    measured of their gradients when they were made.
    """

    losses: tuple[Any, ...] = ()
    missed: Collection[int] = ()
    fresh: Collection[int] = ()
    used: Collection[int] = ()
    norms: Mapping[int, Any] = MappingProxyType({})


class Zeroed(NamedTuple):
    """The gradients of these parameters were set to zero or taken away."""

    parameters: frozenset[int]


class Scaled(NamedTuple):
    """A GradScaler multiplied so many losses by `scale`, which may lie on a device."""

    scale: Any
    many: int = 1


class Unscaled(NamedTuple):
    """A GradScaler divided the gradients of an optimizer by its scale."""

    optimizer: int


class ClipCall(NamedTuple):
    """One call of a clipping function. Parameters are known by `id`.

    `where` is the line of the user's code that led to it, `by` the library that made it, if one did. `first` gives the
    first gradient, while it lives. `norm` is what the call returned (of a rule its `Result`), `norms_before` what was
    measured before it.
    """

    function: str
    kind: str
    threshold: float
    order: float
    where: str
    by: str = ""
    parameters: frozenset[int] = frozenset()
    given: int = 0
    gradients: int = 0
    are_parameters: bool = True
    first: Callable[[], object] = nothing
    norm: Any = None
    norms_before: Any = None

    @property
    def measures(self) -> bool:
        """Whether the call only asks for the norm: nobody clips at such a threshold."""
        return self.kind == NORM and self.threshold >= MEASURES

    def sentence(self) -> str:
        """The call as a person would write it."""
        arguments = {NORM: "(max_norm={:g})", VALUE: "(clip_value={:g})", RULE: ""}[self.kind].format(self.threshold)
        return f"{self.function}{arguments} at {self.where}" + (f" by {self.by}" if self.by else "")


Entry = Backward | Zeroed | Scaled | Unscaled | ClipCall


class Flaw(NamedTuple):
    """What is wrong, the line of the call, and the library that made it."""

    name: str
    where: str
    by: str = ""


class Applied(NamedTuple):
    """A clip that acted on what the optimizer gets, and the loss scale that was on the gradients then."""

    clip: ClipCall
    scale: Any = 1.0


class Loss(NamedTuple):
    """A number whose gradient the optimizer gets, and the loss scale that was on it."""

    value: Any
    scale: Any = 1.0


class Made(NamedTuple):
    """What was measured of the gradients when they were made, and the loss scale that was on them."""

    norms: Any
    scale: Any = 1.0


class Examined(NamedTuple):
    """The clips that acted on the gradients of a step, what was wrong since the step before, the losses, and what was
    measured of the gradients when the last of them were made, if it was."""

    applied: list[Applied]
    flaws: list[Flaw]
    losses: Sequence[Loss] = ()
    made: Made | None = None


def examine(
    entries: Iterable[Entry],
    optimizer: int,
    parameters: frozenset[int],
    has_gradients: bool = False,
    others: Collection[int] = (),
    step_at: str = "",
) -> Examined:
    """What of `entries`, in their order since the last step of this optimizer, is about it.

    A call belongs to an optimizer if it clips one of its parameters; one that clips no parameter at all belongs to
    every optimizer. A clip acts on a step if gradients were made before it and not zeroed after it; `has_gradients`
    says that they were, where no backward pass is seen. The losses are those whose gradients were not zeroed. `others`
    are the parameters of other optimizers, and `step_at` is the line of the step.
    """
    zeroed = used = elsewhere = False
    own, made = has_gradients, None
    strays: list[Flaw] = []
    scale: Any = None
    scaled: Any = None
    count, last = 0, -1
    applied: list[Applied] = []
    flaws: list[Flaw] = []
    losses: list[Loss] = []
    places: list[int] = []
    for place, entry in enumerate(entries):
        if isinstance(entry, Backward):
            has_gradients, last = True, place
            scale, count = (scaled if count else None), max(0, count - 1)  # of a loss that was scaled for this backward
            losses = [] if optimizer in entry.fresh else losses
            if optimizer in entry.missed:
                elsewhere = True
            else:
                own, used, found = True, optimizer in entry.used, entry.norms.get(optimizer)
                made = None if found is None else Made(found, 1.0 if scale is None else scale)
                losses += [Loss(value, 1.0 if scale is None else scale) for value in entry.losses]
        elif isinstance(entry, Zeroed):
            if entry.parameters & parameters:
                zeroed, own, used, made, applied, places, losses = True, False, False, None, [], [], []
        elif isinstance(entry, Scaled):
            scaled, count = entry.scale, entry.many
        elif isinstance(entry, Unscaled):
            scale = None if entry.optimizer == optimizer else scale
        elif elsewhere and not own and entry.parameters and entry.parameters <= parameters and not entry.measures:
            flaws.append(Flaw(OTHER_MODEL, entry.where, entry.by))
        elif entry.parameters & parameters or not (entry.parameters and entry.are_parameters):
            flaw = flaw_of(entry, has_gradients, zeroed, scale)
            if flaw in (None, BEFORE_UNSCALE, NO_LIMIT) and (has_gradients or not entry.measures):
                flaws += repeated(entry, [earlier.clip for earlier in applied], [last > at for at in places])
                applied.append(Applied(entry, 1.0 if scale is None else scale))
                places.append(place)
            if flaw is not None:
                flaws.append(Flaw(flaw, entry.where, entry.by))
        elif not entry.measures and entry.parameters.isdisjoint(others):
            strays.append(Flaw(UNTRAINED, entry.where, entry.by))
    flaws += [Flaw(NOT_ZEROED, step_at)] if used else []
    flaws += strays if not applied else []
    return Examined(applied, list(dict.fromkeys(flaws)), losses, made)


def flaw_of(clip: ClipCall, has_gradients: bool, zeroed: bool, scale: Any) -> str | None:
    """What is wrong with a call by itself, of which only a loss scale and its limit let it act all the same."""
    if clip.measures:
        return None
    if not clip.given:
        return EMPTY
    if not clip.are_parameters:
        return NO_PARAMETERS
    if not has_gradients:
        return BEFORE_BACKWARD if zeroed or not clip.gradients else AFTER_STEP
    if clip.kind != RULE and not clip.threshold > 0.0:
        return NO_LIMIT
    return None if scale is None else BEFORE_UNSCALE


def repeated(clip: ClipCall, before: list[ClipCall], accumulated: list[bool]) -> list[Flaw]:
    """What is wrong with a call that clips again what was clipped; `accumulated`: a backward came in between."""
    for other, more in zip(before, accumulated, strict=True):
        if other.measures or clip.measures or other.kind != clip.kind or not other.parameters & clip.parameters:
            continue
        if more and other.parameters == clip.parameters and other.first() is not clip.first():
            continue  # those gradients were given up, and these are new ones
        if bool(other.by) != bool(clip.by):
            mine = other if clip.by else clip
            return [Flaw(TWO_KNOBS, mine.where, other.by or clip.by)]
        return [Flaw(MICRO_STEP if more else TWICE, clip.where, clip.by)]
    return []


def of_closure(examined: Examined) -> Examined:
    """What was wrong before a step that made its gradients itself, in a closure: a clip of older ones is not late."""
    flaws = [
        flaw._replace(name=BEFORE_CLOSURE) if flaw.name in (AFTER_STEP, BEFORE_BACKWARD) else flaw
        for flaw in examined.flaws
    ]
    return examined._replace(flaws=flaws)


def left_out(groups: list[list[int]], applied: Iterable[Applied]) -> tuple[str | None, list[int]]:
    """What is wrong with which parameters, those with a gradient in their groups, were clipped; and which were not.

    Where nothing was clipped at all, nothing was left out.
    """
    covered = frozenset().union(*(acting.clip.parameters for acting in applied))
    missing = [parameter for group in groups for parameter in group if parameter not in covered]
    if not covered or not missing:
        return None, []
    group_excluded = any(group and not covered.intersection(group) for group in groups)
    return GROUP_EXCLUDED if group_excluded else SOME_ONLY, missing
