"""The door of fastai: `Learner(dls, model, cbs=gradclip.fastai.Clip(rule))`."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, TypedDict, Unpack

from gradclip.errors import needing, shown
from gradclip.rules.arguments import items_of
from gradclip.rules.rule import AnyRule
from gradclip.step.result import Result
from gradclip.telemetry import Telemetry
from gradclip.telemetry.loggers import EACH

with needing("gradclip.fastai", "fastai", "torch", "fastai"):
    import torch
    from fastai.callback.core import Callback
    from fastai.callback.fp16 import MixedPrecision, NonNativeMixedPrecision
    from fastai.callback.training import GradientClip
    from fastai.learner import ValueMetric
    from fastai.optimizer import OptimWrapper

    from gradclip.torch.clipper import Clipper
    from gradclip.torch.late import Latest, told_layers
    from gradclip.torch.parameters import NeedClip, of_optimizers

__all__ = ["Clip"]

KEY = "gradclip"
"""What an optimizer's state has the memory under."""

COLUMNS = ("grad_norm", "clip/rate")
"""What the table of a fit shows of each epoch, if nothing else is said."""

EVERY = (*COLUMNS, "grad_norm_clipped", "clip/threshold", "clip/scale", "clip/nonfinite", "clip/skipped")
"""What it can show, beside the norms of tensors."""


class OfTheStep(TypedDict, total=False):
    """What says how is clipped, beside the rule: see `gradclip.torch.Clipper`."""

    on_nonfinite: str
    max_consecutive_skips: int | None
    need_clip: NeedClip | None
    engine: str | None


class Clip(Callback):
    """Clip the gradients by `rule` before each step of the optimizer, fastai's own or one in an `OptimWrapper`.

    It comes after the gradients are accumulated and unscaled. The memory is saved by `learn.save` and taken up after
    `learn.load`, both with `with_opt=True`, because fastai saves the optimizer and nothing of callbacks: so it is by
    `SaveModelCallback(with_opt=True)`, and what `lr_find` tried is forgotten. `learn.export` has it, too. `columns` of
    the table and of what loggers of epochs get are `grad_norm`, the mean over the epoch, and `clip/rate`; there are
    also `grad_norm_clipped`, `clip/threshold`, `clip/scale`, `clip/nonfinite` and `clip/skipped`, of the last step.
    `learn.clip.numbers` has all of them after each step, with `layers=5` the five largest `grad_norm/NAME`.
    `telemetry` and the other options: `gradclip.torch.Clipper`.

    Raises `ValueError` at the beginning of a fit beside fastai's `GradientClip`, which would clip as well.

    >>> clip = Clip(ClipGradByGlobalNorm(1.0), columns=["grad_norm", "clip/threshold"])
    """

    order = MixedPrecision.order + 1
    run_valid = False
    _stateattrs = ("_saved",)

    def __init__(
        self,
        rule: AnyRule,
        *,
        columns: Iterable[str] = COLUMNS,
        layers: int = 0,
        telemetry: Telemetry | None = None,
        **options: Unpack[OfTheStep],
    ) -> None:
        self._columns = checked_columns(columns)
        self.clipper = Clipper(rule, telemetry=telemetry, **options)
        self._layers = told_layers(layers, telemetry)
        self._latest = Latest(layers)
        if telemetry is not None:
            telemetry.add(self._latest)
        self.numbers: dict[str, float] = {}
        self._norms: list[float] = []
        self._trains = False
        self._saved = Saved(self.state_dict)

    @property
    def rule(self) -> AnyRule:
        """The rule; another one may be set between two steps."""
        return self.clipper.rule

    @rule.setter
    def rule(self, rule: AnyRule) -> None:
        self.clipper.rule = rule

    @property
    def last(self) -> Result:
        """What the last clip did."""
        return self.clipper.last

    def state_dict(self) -> dict[str, Any]:
        """The memory, as that of every clipper."""
        return self.clipper.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` gave; the memory of another rule is refused."""
        self.clipper.load_state_dict(state)

    def before_fit(self) -> None:
        """Take up the memory that came with the optimizer, and add the columns."""
        self._trains = False
        if self.clipper.telemetry is None:
            self._listen()
        if self.learn.opt is not None:
            self._take_up()
        self._show([ClipColumn(self._column_of(name), name) for name in self._columns])

    def before_train(self) -> None:
        """Refuse who else clips."""
        if sum(isinstance(callback, Clip) for callback in self.learn.cbs) > 1:
            raise ValueError(
                "there are several gradclip.fastai.Clip, or one twice: one clips, and knows the norm before"
            )
        for callback in self.learn.cbs:
            if isinstance(callback, GradientClip):
                raise ValueError(
                    f"GradientClip(max_norm={callback.max_norm}) would clip beside {self.rule!r}: leave it out, "
                    "learn.remove_cb(GradientClip)"
                )
            if isinstance(callback, NonNativeMixedPrecision) and callback.clip is not None:
                raise ValueError(
                    f"NonNativeMixedPrecision(clip={callback.clip}) would clip before {self.rule!r}: leave clip= out"
                )
        self._trains, self._norms = True, []

    def before_step(self) -> None:
        """Clip what the optimizer is about to step by."""
        self._take_up()
        loss = self.learn.loss
        if isinstance(loss, torch.Tensor) and loss.numel() == 1:
            self.clipper.give(loss=loss.detach())
        self.clipper.clip_(of_optimizers([self.learn.opt], self.learn.model))
        self.numbers = self._latest.taken()
        if "grad_norm" in self.numbers:
            self._norms.append(self.numbers["grad_norm"])

    def before_validate(self) -> None:
        """Leave the results of `learn.validate()` as they are: it trains nothing."""
        if not self._trains:
            self._show([])

    def after_fit(self) -> None:
        """Take the columns away, of which the next fit has its own."""
        self._show([])

    def _show(self, columns: list[ClipColumn]) -> None:
        """Have these columns in the table, and no others of this kind."""
        self.learn.metrics = [metric for metric in self.learn.metrics if not isinstance(metric, ClipColumn)] + columns

    def _column_of(self, name: str) -> Callable[[], float]:
        """What gives the number of a column, when an epoch is over."""
        return self._mean_norm if name == "grad_norm" else partial(self._last_of, name)

    def _last_of(self, name: str) -> float:
        return self.numbers.get(name, math.nan)

    def _mean_norm(self) -> float:
        return math.fsum(self._norms) / len(self._norms) if self._norms else math.nan

    def _take_up(self) -> None:
        """Take up the memory that the optimizer came with, if it was loaded, and have this one saved with it."""
        place = place_in(self.learn.opt)
        there = place.get(KEY)
        if there is not self._saved:
            if isinstance(there, Saved):  # of a callback that was here before
                there = there.state_of(self.rule)
            if there is not None:
                self.load_state_dict(there)
            place[KEY] = self._saved

    def _listen(self) -> None:
        """Hear of the steps, also in a copy, which has no telemetry of the user's."""
        telemetry = Telemetry(self._latest, tensors=self._layers > 0)
        telemetry.serve(self.clipper)
        self.clipper.telemetry = telemetry

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._saved = Saved(self.state_dict)


def checked_columns(columns: object) -> list[str]:
    """`columns` as a list, if all of them are names of numbers that there are."""
    names = None if isinstance(columns, str | bytes) else items_of(columns)
    wrong = [columns] if names is None else [name for name in names if not is_column(name)]
    if names is None or wrong:
        raise ValueError(f"columns is a list of names among {', '.join(EVERY)} and {EACH}NAME, got {shown(wrong[0])}")
    return names


def is_column(name: object) -> bool:
    """Whether it is the name of a number that there is, or may be."""
    return isinstance(name, str) and (name in EVERY or name.startswith(EACH))


class ClipColumn(ValueMetric):
    """A column of the table of a fit that is a number of the clipper."""


class Saved(dict[str, Any]):
    """What is empty in memory, and in a file or a copy is the dict that `state` gives then."""

    def __init__(self, state: Callable[[], Mapping[str, Any]]) -> None:
        super().__init__()
        self._state = state

    def state_of(self, rule: AnyRule) -> Mapping[str, Any] | None:
        """The memory, if it is one of this rule."""
        state = self._state()
        return state if state["words"] == repr(rule) else None

    def __reduce__(self) -> tuple[Any, ...]:
        return OrderedDict, (), None, None, iter(self._state().items())


def place_in(optimizer: Any) -> dict[str, Any]:
    """Where an optimizer of fastai has what is saved with it: the state of its first parameter, for which each of its
    steps has room, or the first parameter group of the one of PyTorch in it.
    """
    if isinstance(optimizer, OptimWrapper):
        group: dict[str, Any] = optimizer.opt.param_groups[0]
        return group
    first = next(p for parameters in optimizer.param_lists for p in parameters)
    found: dict[str, Any] = optimizer.state.setdefault(first, {})
    return found
