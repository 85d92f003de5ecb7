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
SHARE_OF_SCALE = 0.001
"""A limit below this share of the loss scale was not multiplied by it."""
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
DISCARDED = "discarded"
PER_RANK = "per-rank-norm"
STAGE = "stage-norm"
BEFORE_REDUCTION = "before-reduction"


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


class HandedOn(NamedTuple):
    """Gradients were made that were added to none: the script may put them where it wants."""


class ClosureBegins(NamedTuple):
    """The closure of a step of this optimizer is about to be evaluated."""

    optimizer: int


class Unscaled(NamedTuple):
    """A GradScaler divided the gradients of an optimizer by its scale."""

    optimizer: int


class ClipCall(NamedTuple):
    """One call of a clipping function. Parameters are known by `id`.

    `where` is the line of the user's code that led to it, `by` the library that made it, if one did. `first` gives the
    first gradient, while it lives; `says_scale` that the line speaks of a scale. `norm` is what the call returned (of a
    rule its `Result`), `norms_before` what was measured before it.
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
    says_scale: bool = False

    @property
    def measures(self) -> bool:
        """Whether the call only asks for the norm: nobody clips at such a threshold."""
        return self.kind == NORM and self.threshold >= MEASURES

    def sentence(self) -> str:
        """The call as a person would write it."""
        arguments = {NORM: "(max_norm={:g})", VALUE: "(clip_value={:g})", RULE: ""}[self.kind].format(self.threshold)
        return f"{self.function}{arguments} at {self.where}" + (f" by {self.by}" if self.by else "")


Entry = Backward | HandedOn | Zeroed | Scaled | Unscaled | ClosureBegins | ClipCall


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
    reading = Reading(optimizer, parameters, frozenset(others), has_gradients)
    for place, entry in enumerate(entries):
        reading.read(entry, place)
    return reading.examined(step_at)


class Reading:
    """What is known of the gradients of an optimizer while the entries since its last step are read."""

    def __init__(self, optimizer: int, parameters: frozenset[int], others: frozenset[int], made: bool) -> None:
        self._optimizer, self._parameters, self._others = optimizer, parameters, others
        self._made = made  # gradients of any optimizer, where it is not known whose
        self._own, self._last_own = made, -1
        self._elsewhere = self._zeroed = self._used = False
        self._last = self._closure_at = -1
        self._before_closure = 0
        self._scale: Any = None
        self._scaled: Any = None
        self._to_scale = 0
        self._norms: Made | None = None
        self._losses: list[Loss] = []
        self._flaws: list[Flaw] = []
        self._strays: list[Flaw] = []
        self._applied: list[tuple[Applied, int]] = []
        self._discarded: list[Flaw] = []

    def read(self, entry: Entry, place: int) -> None:
        """Take note of the next entry."""
        if isinstance(entry, Backward):
            self._backward(entry, place)
        elif isinstance(entry, HandedOn):
            self._made = self._own = True
        elif isinstance(entry, Zeroed):
            if entry.parameters & self._parameters:
                self._give_up()
        elif isinstance(entry, Scaled):
            self._scaled, self._to_scale = entry.scale, entry.many
        elif isinstance(entry, Unscaled):
            self._scale = None if entry.optimizer == self._optimizer else self._scale
        elif isinstance(entry, ClosureBegins):
            if entry.optimizer == self._optimizer:
                self._before_closure, self._closure_at = len(self._flaws), place
        else:
            self._call(entry, place)

    def examined(self, step_at: str) -> Examined:
        """What was found, of a step at this line."""
        flaws = self._flaws
        if not any(not one.clip.measures for one, _ in self._applied):
            flaws += self._discarded
        if self._last_own > self._closure_at >= 0:
            flaws[: self._before_closure] = [of_closure(flaw) for flaw in flaws[: self._before_closure]]
        named = {flaw.where for flaw in flaws}
        flaws += [Flaw(MICRO_STEP, clip.where, clip.by) for clip in self._followed() if clip.where not in named]
        flaws += [Flaw(NOT_ZEROED, step_at)] if self._used else []
        applied = [one for one, _ in self._applied]
        return Examined(applied, list(dict.fromkeys(flaws + self._strays * (not applied))), self._losses, self._norms)

    def _backward(self, entry: Backward, place: int) -> None:
        self._made, self._last = True, place
        self._scale = self._scaled if self._to_scale else None  # of a loss that was scaled for this backward
        self._to_scale = max(0, self._to_scale - 1)
        if self._optimizer in entry.fresh:
            self._losses = []
            self._discard()
        if self._optimizer in entry.missed:
            self._elsewhere = True
            return
        self._own, self._last_own, self._used = True, place, self._optimizer in entry.used
        scale, norms = 1.0 if self._scale is None else self._scale, entry.norms.get(self._optimizer)
        self._norms = None if norms is None else Made(norms, scale)
        self._losses = [*self._losses, *(Loss(value, scale) for value in entry.losses)]

    def _give_up(self) -> None:
        """The gradients were zeroed."""
        self._zeroed, self._own, self._used, self._norms = True, False, False, None
        self._losses = []
        self._discard()

    def _discard(self) -> None:
        """Give up the gradients that were clipped: what the optimizer gets is made anew."""
        for one, at in self._applied:
            if not one.clip.measures:
                name = BEFORE_CLOSURE if at < self._closure_at else DISCARDED
                self._discarded.append(Flaw(name, one.clip.where, one.clip.by))
        self._applied = []

    def _call(self, clip: ClipCall, place: int) -> None:
        mine = clip.parameters & self._parameters
        if self._elsewhere and not self._own and mine and mine == clip.parameters and not clip.measures:
            self._flaws.append(Flaw(OTHER_MODEL, clip.where, clip.by))
        elif mine or not (clip.parameters and clip.are_parameters):
            self._clip(clip, place)
        elif not clip.measures and not clip.gradients and clip.parameters.isdisjoint(self._others):
            self._strays.append(Flaw(UNTRAINED, clip.where, clip.by))

    def _clip(self, clip: ClipCall, place: int) -> None:
        in_closure = self._closure_at >= 0
        flaw = flaw_of(clip, self._made, self._zeroed or in_closure, self._scale)
        if flaw in (None, BEFORE_UNSCALE, NO_LIMIT) and (self._made or not clip.measures):
            before = [(earlier.clip, self._last > at) for earlier, at in self._applied]
            self._flaws += repeated(clip, before)
            self._applied = [*self._applied, (Applied(clip, 1.0 if self._scale is None else self._scale), place)]
        if flaw is not None:
            self._flaws.append(Flaw(flaw, clip.where, clip.by))

    def _followed(self) -> list[ClipCall]:
        """The clips after all of which gradients were added that none has clipped."""
        acting = [(one.clip, at) for one, at in self._applied if not one.clip.measures]
        return [clip for clip, at in acting] if acting and self._last_own > max(at for _, at in acting) else []


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
    return None if scale is None or is_scaled_limit(clip, scale) else BEFORE_UNSCALE


def is_scaled_limit(clip: ClipCall, scale: Any) -> bool:
    """Whether the limit carries the loss scale as the gradients do: the line says so, and it is large enough."""
    return clip.says_scale and clip.threshold >= SHARE_OF_SCALE * float(scale)


def repeated(clip: ClipCall, before: Iterable[tuple[ClipCall, bool]]) -> list[Flaw]:
    """What is wrong with a call that clips again what was clipped `before`, with a backward pass in between or not."""
    for other, more in before:
        if other.measures or clip.measures or other.kind != clip.kind or not other.parameters & clip.parameters:
            continue
        if more and other.parameters == clip.parameters and other.first() is not clip.first():
            continue  # those gradients were given up, and these are new ones
        if bool(other.by) != bool(clip.by):
            mine = other if clip.by else clip
            return [Flaw(TWO_KNOBS, mine.where, other.by or clip.by)]
        return [Flaw(MICRO_STEP if more else TWICE, clip.where, clip.by)]
    return []


def of_closure(flaw: Flaw) -> Flaw:
    """What was wrong before a step that makes its gradients itself, in a closure: a clip of older ones is not late."""
    return flaw._replace(name=BEFORE_CLOSURE) if flaw.name in (AFTER_STEP, BEFORE_BACKWARD) else flaw


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
