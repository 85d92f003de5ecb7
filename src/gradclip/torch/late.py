"""Clippers for optimizers that a trainer makes after it was given the rule: attached late, with one state for all."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Unpack

import torch
from torch.optim import Optimizer

from gradclip.errors import GradclipWarning, NothingClipped, shown
from gradclip.rules.arguments import checked_flag, checked_word
from gradclip.rules.rule import AnyRule, checked_rule
from gradclip.step.checkpoint import checked_state
from gradclip.step.respond import user_level
from gradclip.step.result import Result
from gradclip.telemetry import Event, Metrics, Telemetry
from gradclip.telemetry.collector import checked_telemetry
from gradclip.telemetry.loggers import EACH, checked_layers
from gradclip.torch.attached import OfTheClip, attach
from gradclip.torch.clipper import Clipper
from gradclip.torch.hook import AttachedClipper, Options, clipper_of
from gradclip.torch.optimizers import unwrapped
from gradclip.torch.update import PLACES

GIVEN_AWAY = (
    "this step of {what} would not be clipped: the Clip of its training was given to another one, which it serves now; "
    "give each training a Clip of its own"
)
ALL = "all"
"""The name of the one clipper that serves all optimizers together."""


class LateClippers:
    """A clipper for each optimizer of a trainer, each with a norm and a memory of its own; with `together` one for all.

    The optimizers come later, to `attach_to`, and may be others in the next training: the memory stays where they have
    the same parameters, and where it was loaded; another model begins anew. `layers` is the number of tensors whose
    norms `numbers` has, the largest ones first; `telemetry` hears of every step of the one clipper. The other options
    are those of `gradclip.attach`.

    The state is `{"clippers": {name: state of a clipper}}`, plain data; it may be loaded before there are optimizers.
    """

    def __init__(
        self,
        rule: AnyRule,
        *,
        together: bool = False,
        layers: int = 0,
        telemetry: Telemetry | None = None,
        **options: Unpack[OfTheClip],
    ) -> None:
        self._rule = checked_rule(rule)
        self._together = checked_flag(together, "together")
        self._telemetry = checked_telemetry(telemetry)
        self._layers = told_layers(layers, telemetry)
        self.gone: set[str] = set()
        self._options = checked_options(self._rule, options)
        self._refuse_rule(self._rule)
        self._clippers: dict[str, AttachedClipper] = {}
        self._latest: dict[str, Latest] = {}
        self._state: Mapping[str, Any] | None = None
        self._known: dict[int, weakref.ref[torch.Tensor]] = {}
        self._trainer = 0
        self._left: list[tuple[weakref.ref[Optimizer], Any]] = []

    @property
    def clippers(self) -> dict[str, AttachedClipper]:
        """The clipper of each optimizer, by its name; empty before the first training."""
        return dict(self._clippers)

    @property
    def last(self) -> Result:
        """What the last clip did, of the first optimizer where each has a clipper."""
        for clipper in self._clippers.values():
            return clipper.last
        raise NothingClipped("nothing was clipped yet: `last` exists after the first step of a training")

    @property
    def rule(self) -> AnyRule:
        """The rule; another one may be set between two steps, as that of a clipper."""
        return self._rule

    @rule.setter
    def rule(self, rule: AnyRule) -> None:
        checked_options(checked_rule(rule), self._options)
        self._refuse_rule(rule)
        for clipper in self._clippers.values():
            clipper.rule = rule
        self._rule = rule

    def _refuse_rule(self, rule: AnyRule) -> None:
        """Raise for a rule whose memory the trainer's checkpoint cannot hold; each door says which."""

    def give(self, **numbers: Any) -> None:
        """Hand over numbers that the rule reads in the next step, such as `loss`, to all clippers."""
        for clipper in self._clippers.values():
            clipper.give(**numbers)

    def give_to(self, optimizer: Any, **numbers: Any) -> None:
        """Hand them over to the clipper of one optimizer."""
        clipper = clipper_of(unwrapped(optimizer))
        if clipper is not None:
            clipper.give(**numbers)

    def attach_to(self, optimizers: Mapping[str, Any], model: torch.nn.Module | None = None, every: int = 1) -> None:
        """Clip in the steps of these optimizers, with the memory so far; `numbers` reads every so many steps at once.

        Raises `ValueError` where the memory is of optimizers of other names or of other parameters.
        """
        inner = {name: unwrapped(optimizer) for name, optimizer in optimizers.items()}
        if not inner:
            raise ValueError(f"there is no optimizer in whose steps {self._rule!r} could clip: leave the clip out")
        wanted = {ALL: list(inner.values())} if self._together else {name: [one] for name, one in inner.items()}
        if self._serve(wanted):
            return
        if self._telemetry is not None and len(wanted) > 1:
            raise ValueError(
                f"one Telemetry hears of one clipper, and there is one for each of {list(wanted)}: leave telemetry= "
                "out, or clip all by one norm, together=True"
            )
        state = self.state_dict() if self._state is not None or self._know_any(inner.values()) else {}
        self._leave(inner.values())
        self._clippers, self._latest = {}, {name: Latest(self._layers) for name in wanted}
        self._known = {id(p): weakref.ref(p) for one in inner.values() for p in parameters_in(one)}
        try:
            for name, served in wanted.items():
                telemetry = self._telemetry or Telemetry(self._latest[name], every=every, tensors=self._layers > 0)
                self._clippers[name] = attach(
                    *served, rule=self._rule, model=model, telemetry=telemetry, **self._options
                )
            if self._telemetry is not None:
                (latest,) = self._latest.values()
                self._telemetry.add(latest)
            self.load_state_dict(state)
        except BaseException:
            self.detach()
            self._clippers, self._state = {}, state
            raise
        self._state = None

    def detach(self) -> None:
        """Take the hooks away; the memory stays, and so does what `last` and `numbers` say."""
        for name, clipper in self._clippers.items():
            if clipper.attached:
                clipper.detach()
                if self._telemetry is not None:
                    self._telemetry.leave(self._latest[name])

    def numbers(self, prefix: str = "", wait: bool = True) -> dict[str, float]:
        """What the clippers did in the last step since the last call, as `gradclip.telemetry.Metrics` names it.

        Of several clippers each name begins with that of the optimizer and a slash. Empty where there was no step, and
        without `wait` where its numbers are on a device still. `gone` has the names of those that were told
        before and are not among the largest now.
        """
        found: dict[str, float] = {}
        self.gone = set()
        for name, clipper in self._clippers.items():
            if clipper.telemetry is not None and (wait or not clipper.waits):
                clipper.telemetry.drain()
            begin = prefix if len(self._clippers) == 1 else f"{prefix}{name}/"
            latest = self._latest[name]
            found |= {begin + key: number for key, number in latest.taken().items()}
            self.gone |= {begin + key for key in latest.gone}
        return found

    def state_dict(self) -> dict[str, Any]:
        """The memory of each clipper, as plain data and, where the rule carries over, tensors."""
        if self._state is not None:
            return dict(self._state)
        found = {name: clipper.state_dict() for name, clipper in self._clippers.items()}
        return {"clippers": found} if found else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` gave, now or when there are optimizers; all of it or, with an error, nothing."""
        saved = saved_in(state)
        if not any(clipper.attached for clipper in self._clippers.values()):
            self._state = state
            return
        if saved and saved.keys() != self._clippers.keys():
            raise ValueError(
                f"this state is of clippers for the optimizers {sorted(saved)}, and there are {sorted(self._clippers)}"
                "; nothing was loaded"
            )
        for name, of_one in saved.items():
            checked_state(self._clippers[name], of_one)
        for name, of_one in saved.items():
            self._clippers[name].load_state_dict(of_one)

    def begin_for(self, trainer: object) -> None:
        """Note whose training it is that begins."""
        self._trainer = id(trainer)

    def refuse_other(self, trainer: object) -> None:
        """Raise where the training that goes on is not the one that began last."""
        if id(trainer) != self._trainer:
            raise RuntimeError(GIVEN_AWAY.format(what=type(trainer).__name__))

    def begins_anew(self) -> None:
        """Warn that a checkpoint has nothing of what the rule remembers, which a resumed training begins without."""
        if any(clipper.line.remembered or clipper.line.carries for clipper in self._clippers.values()):
            warnings.warn(
                f"this checkpoint was written without {type(self).__module__}.Clip, so what the rule remembers begins "
                f"anew: {self._rule!r}",
                GradclipWarning,
                stacklevel=user_level(),
            )

    def _know_any(self, optimizers: Iterable[Optimizer]) -> bool:
        """Whether any of the parameters of these is one of the last training's: then the memory is of this model."""
        every = [p for optimizer in optimizers for p in parameters_in(optimizer)]
        return any((known := self._known.get(id(p))) is not None and known() is p for p in every)

    def _leave(self, others: Iterable[Optimizer]) -> None:
        """Take the hooks away, and let optimizers that are still at work step no more unclipped; these `others` may."""
        at_work = [one for clipper in self._clippers.values() if clipper.attached for one in clipper.optimizers]
        self.detach()
        wanted = {id(optimizer) for optimizer in others}
        for known, handle in self._left:
            if id(known()) in wanted:
                handle.remove()
        self._left = [(known, handle) for known, handle in self._left if id(known()) not in wanted]
        for one in at_work:
            if id(one) not in wanted:
                self._left.append((weakref.ref(one), one.register_step_pre_hook(refuse_unclipped)))

    def _serve(self, wanted: Mapping[str, list[Optimizer]]) -> bool:
        """Whether these very optimizers are served already."""
        served = {name: clipper.optimizers for name, clipper in self._clippers.items() if clipper.attached}
        return served.keys() == wanted.keys() and all(
            len(served[name]) == len(those) and all(a is b for a, b in zip(served[name], those, strict=True))
            for name, those in wanted.items()
        )

    def __getstate__(self) -> dict[str, Any]:
        """What a copy begins with: the rule and the memory, for optimizers of its own; no telemetry."""
        return {
            **self.__dict__, "_clippers": {}, "_latest": {}, "_telemetry": None, "_known": {}, "_left": [],
            "_state": self.state_dict() or None,
        }  # fmt: skip


class Latest:
    """A sink that keeps the numbers of the last step, and the norms of the largest `layers` tensors in it."""

    def __init__(self, layers: int) -> None:
        self._metrics = Metrics(layers=layers)
        self._numbers: dict[str, float] = {}
        self._told: set[str] = set()
        self.gone: set[str] = set()

    def __call__(self, event: Event) -> None:
        self._numbers = self._metrics(event)

    def taken(self) -> dict[str, float]:
        """The numbers, if there was a step since they were taken last; `gone` are tensors of earlier ones."""
        numbers, self._numbers = self._numbers, {}
        each = {name for name in numbers if name.startswith(EACH)}
        self.gone = self._told - each if numbers else set()
        self._told |= each
        return numbers


def told_layers(layers: int, telemetry: Telemetry | None) -> int:
    """`layers` if so many tensors' norms can be told, by a telemetry of the user's too."""
    if checked_layers(layers) and telemetry is not None and not telemetry.tensors:
        raise ValueError("layers are told from the norms of tensors: Telemetry(..., tensors=True), or leave it out")
    return layers


def checked_options(rule: AnyRule, options: OfTheClip) -> OfTheClip:
    """`options` if a clipper can be made with them: a wrong one is told where it is written, not in the training."""
    unknown = options.keys() - Options._fields
    if unknown:
        raise TypeError(f"there is no option {min(unknown)!r}: the options are those of gradclip.attach")
    checked_word(options.get("place", "gradient"), "place", PLACES)
    checked_flag(options.get("through_grad_scale", False), "through_grad_scale")
    of_a_clipper: dict[str, Any] = {k: v for k, v in options.items() if k not in ("place", "through_grad_scale")}
    Clipper(rule, **of_a_clipper)
    return options


def saved_in(state: object) -> Mapping[str, Mapping[str, Any]]:
    """The state of each clipper, by name, in what `LateClippers.state_dict` gave."""
    if not isinstance(state, Mapping):
        raise TypeError(f"a state is the dict that state_dict() gave, got {shown(state)}")
    saved = state.get("clippers", {})
    if not isinstance(saved, Mapping) or state.keys() - {"clippers"}:
        raise ValueError(
            f"a state of this kind is {{'clippers': {{name: state}}}}, got {shown(state)}; nothing was loaded"
        )
    return saved


def parameters_in(optimizer: Optimizer) -> Iterator[torch.Tensor]:
    """The parameters that an optimizer has."""
    return (p for group in optimizer.param_groups for p in group["params"])


def refuse_unclipped(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    """Raise where an optimizer steps whose clip serves another training now."""
    raise RuntimeError(GIVEN_AWAY.format(what=type(optimizer).__name__))


def numbered(optimizers: Iterable[Any]) -> dict[str, Any]:
    """Optimizers by their numbers, for trainers that have no names for them."""
    return {str(number): optimizer for number, optimizer in enumerate(optimizers)}
