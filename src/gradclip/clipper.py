"""The clipper: one rule, applied step after step, with its memory and its last result.

A step goes through the phases of the rule; each is measured, decided, heeded (warn, skip, raise) and then written, so
that nothing is written before everything that could refuse has been asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gradclip.engines.base import Across, Engine, UnsupportedGradient
from gradclip.errors import GradientAboveThreshold, NonFiniteGradient, TooManySkips
from gradclip.rules.response import Raise, SkipStep, Zero
from gradclip.rules.rule import AnyRule, Carry, checked_rule, rules_in
from gradclip.rules.sweep import phases_of
from gradclip.rules.threshold import SecondMoment
from gradclip.step.carry import clip_carrying
from gradclip.step.decide import POLICIES
from gradclip.step.elements import write_elements
from gradclip.step.given import is_one, refuse_many, refuse_missing
from gradclip.step.gradients import Gradients, gathered, gathered_once, refused
from gradclip.step.memory import Memories, Memory
from gradclip.step.part import Part
from gradclip.step.phase import refuse_unfit, works_of
from gradclip.step.respond import (
    alarming,
    asks_to_skip,
    broken_names,
    offenders,
    refuse_nonfinite,
    warn_nonfinite,
    warn_unmatched,
)
from gradclip.step.result import Result
from gradclip.step.work import Terms, Work, broken_in
from gradclip.telemetry import Telemetry

STATE_VERSION = 1


class Clipper:
    """Applies a rule to the gradients of one step after another.

    `on_nonfinite` says what a segment with a NaN or an infinite element gets: "keep" (the default: it is not written,
    nothing is learnt from it, it is counted, and a warning names its parameter once), "skip" (the optimizer does not
    step), "zero", or "raise". `max_consecutive_skips` raises `TooManySkips` when more steps in a row are skipped.
    `telemetry` hears of every step, of one that raises too: `gradclip.telemetry.Telemetry`.
    """

    def __init__(
        self,
        rule: AnyRule,
        *,
        on_nonfinite: str = "keep",
        max_consecutive_skips: int | None = None,
        telemetry: Telemetry | None = None,
    ) -> None:
        self.rule = checked_rule(rule)
        if on_nonfinite not in POLICIES:
            raise ValueError(f"on_nonfinite is one of {', '.join(map(repr, POLICIES))}, got {on_nonfinite!r}")
        if max_consecutive_skips is not None and not (
            type(max_consecutive_skips) is int and max_consecutive_skips >= 0
        ):
            raise ValueError(f"max_consecutive_skips is a whole number from 0 or None, got {max_consecutive_skips!r}")
        self.on_nonfinite = on_nonfinite
        self.max_consecutive_skips = max_consecutive_skips
        self.step = 0
        self.consecutive_skips = 0
        responses = {type(one.response) for one in rules_in(self.rule)}
        self.can_skip = SkipStep in responses or on_nonfinite == "skip"
        self.can_raise = Raise in responses or on_nonfinite == "raise"
        self._zeroes = Zero in responses or on_nonfinite == "zero"
        self._adapts = any(one.threshold.adapts for one in rules_in(self.rule))
        self._phases = phases_of(self.rule)
        self.reads_moments = any(isinstance(one.threshold, SecondMoment) for one in rules_in(self.rule))
        self._late = [phase for number, phase in enumerate(self._phases) if number or phase.writes_early]
        self._memories = Memories()
        self.reads_given = frozenset().union(*(one.threshold.reads_given for one in rules_in(self.rule)))
        self._carried: dict[str, Any] = {}
        self._given: dict[str, Any] = {}
        self._last: Result | None = None
        self._warned = self._warned_unmatched = False
        if telemetry is not None:
            telemetry.serve(self)
        self.telemetry = telemetry

    @property
    def hears(self) -> frozenset[str]:
        """The numbers beside the gradients that are wanted: those that the rule reads, and for telemetry the loss."""
        return self.reads_given if self.telemetry is None else self.reads_given | {"loss"}

    @property
    def last(self) -> Result:
        """What the last clip did; reading its numbers is what waits for a device, nothing else does."""
        if self._last is None:
            raise RuntimeError("nothing was clipped yet: `last` exists after the first step with gradients")
        return self._last

    @property
    def memory(self) -> Memory:
        """The memory, for doors that keep it elsewhere: in the state of a compiled training step."""
        return Memory(self.step, self._memories.states, dict(self._carried))

    @memory.setter
    def memory(self, memory: Memory) -> None:
        self.step = memory.step
        self._memories.states = memory.thresholds
        self._carried = dict(memory.carried)

    def give(self, **numbers: Any) -> None:
        """Hand over numbers that the rule reads beside the gradients, for the next step only: `give(loss=loss)`.

        Each is a Python number or a tensor of one element, which is read where it lies: nothing waits for a device.
        Telemetry takes the loss along; what else the rule does not read is ignored. Raises `ValueError` or `TypeError`
        for what is not one number.
        """
        for name, number in numbers.items():
            refuse_many(name, number)
        self._given |= numbers

    def give_returned(self, loss: Any) -> None:
        """Hand over what a closure returned, where somebody hears of the loss and it was not given already."""
        read = "loss" in self.reads_given and loss is not None
        if "loss" in self.hears - self._given.keys() and (read or is_one(loss)):
            self.give(loss=loss)

    def taken_given(self) -> dict[str, Any]:
        """What was given for this step, of which the next step hears nothing."""
        given, self._given = self._given, {}
        return {name: given[name] for name in self.hears if name in given}

    def clip_gradients(self, gradients: Gradients, engine: Engine) -> Result:
        """Clip `gradients` in place with `engine`; the explicit forms and the hooks of every door end here."""
        refuse_missing(self.rule, self.reads_given, self.reads_moments, gradients, self.step)
        gradients, whole = gathered_once(engine, gradients)
        if not isinstance(self.rule, Carry):
            return self._clip(gradients, whole, engine)
        try:
            result, left = clip_carrying(
                lambda sums: self._clip(sums, gathered(engine, sums), engine), gradients, engine, self._carried
            )
        except UnsupportedGradient as error:
            raise refused(gradients, error) from None
        self._carried |= left
        return result

    def _clip(self, gradients: Gradients, whole: Any, engine: Engine) -> Result:
        """Clip `gradients`, whose batch is `whole`; a step that raises is one that telemetry hears of, too."""
        result = Result(self.step, engine, gradients.overflow, gradients.given.get("loss"))
        try:
            self._remember(result, self._clip_phases(result, gradients, whole, engine))
        except (NonFiniteGradient, GradientAboveThreshold, TooManySkips) as error:
            result.settle(True)
            result.looked_up = list(getattr(error, "parameters", result.looked_up))
            self._tell(result, gradients)
            raise
        self._tell(result, gradients)
        return result

    def _clip_phases(self, result: Result, gradients: Gradients, whole: Any, engine: Engine) -> bool:
        """Clip phase by phase, and say whether a host has read what was decided."""
        if self._late:
            self._refuse_early(gradients, whole, engine)
        terms = self._terms()
        reads = not engine.waits or self.can_raise or self.max_consecutive_skips is not None
        for number, phase in enumerate(self._phases):
            works = works_of(number, phase, gradients, engine, whole, terms)
            if not works and phase.names is not None and not self._warned_unmatched:
                self._warned_unmatched = warn_unmatched(phase.names, gradients)
            result.parts += [work.part for work in works]
            if reads and self._heed(works, engine, result, gradients.across):
                break
            for work in works:
                if not work.written:
                    self._write(work.part, work.batch, engine)
                    work.finish()
            whole = None
            if self._adapts and number + 1 < len(self._phases):
                gradients = gradients._replace(broken=broken_in(works, gradients.broken))
        return reads

    def _tell(self, result: Result, gradients: Gradients) -> None:
        if self.telemetry is not None and self.tells():
            self.telemetry.note(result, self.rule, gradients)

    def tell_left_out(self, gradients: Gradients, engine: Engine) -> None:
        """Tell telemetry of a step that a loss scaler leaves out: nothing is measured but which tensors are broken."""
        if self.telemetry is not None and self.tells():
            result = Result(self.step, engine)
            result.settle(True)
            result.looked_up = broken_names(gradients, gathered(engine, gradients), engine)
            self.telemetry.note(result, self.rule, gradients, left_out=True)

    def tells(self) -> bool:
        """Whether it is this process whose telemetry tells, of those that train together."""
        return True

    def _refuse_early(self, gradients: Gradients, whole: Any, engine: Engine) -> None:
        """Ask now whatever could refuse after something was written."""
        for one in rules_in(self.rule):
            if isinstance(self.step, int) and not one.threshold.adapts:
                one.threshold.bounds(self.step)
        for phase in self._late:
            refuse_unfit(phase, gradients, engine)
        if self.on_nonfinite == "raise":
            refuse_nonfinite(gradients, whole, engine, self.step)

    def _terms(self) -> Terms:
        """What this step is decided by."""
        return Terms(
            self.on_nonfinite,
            self.step,
            memories=self._memories if self._adapts else None,
            refuses=self.can_skip or self.can_raise,
            tensors=self.telemetry is not None and self.telemetry.tensors,
        )

    def _write(self, part: Part, batch: Any, engine: Engine) -> None:
        if part.sweep.elementwise:
            write_elements(part, batch, engine, self.on_nonfinite, self.step)
        else:
            engine.apply_(batch, part.sweep.leaf, part.plan.coefficient, self._zeroes)

    def _heed(self, works: list[Work], engine: Engine, result: Result, across: Across | None) -> bool:
        """Whether to skip the step; raises or warns where the decisions say so. What one process skips, all skip."""
        alarms = [(work.part, work.batch) for work in works if alarming(work.part)]
        skips = [asks_to_skip(part, batch, engine, self.step, self.on_nonfinite) for part, batch in alarms]
        skip = any(skips)
        if across is not None and self.can_skip:
            measure = works[0].part.measure
            skip = engine.to_host(across.tensors(measure.xp.array([float(skip)], measure.total), "max"))[0] > 0
        result.settle(skip)
        if self.telemetry is not None:
            result.looked_up += [name for part, batch in alarms for name in offenders(part, batch, engine)]
        for part, batch in alarms:
            if not skip and not self._warned and self.on_nonfinite == "keep":
                self._warned = warn_nonfinite(part, batch, engine, self.step)
        return skip

    def _remember(self, result: Result, settled: bool) -> None:
        for part in result.parts if self._adapts else ():
            for stage, (decision, live) in enumerate(zip(part.plan.decisions, part.owners, strict=True)):
                self._memories.learn((*part.key, stage), decision.state, live, part.measure.total, part.measure.xp)
        self._last = result
        self.step += 1
        if settled:
            self.count_skip(result.skipped)

    def count_skip(self, skipped: bool) -> None:
        """Count a step as taken or skipped, and raise when too many in a row were skipped."""
        self.consecutive_skips = self.consecutive_skips + 1 if skipped else 0
        limit = self.max_consecutive_skips
        if limit is not None and self.consecutive_skips > limit:
            raise TooManySkips(
                f"{self.consecutive_skips} steps in a row were skipped, the last at step {self.step - 1}, more than "
                f"max_consecutive_skips={limit}: training has diverged; go back to a checkpoint and lower the "
                "learning rate"
            )

    def state_dict(self) -> dict[str, Any]:
        """The memory as dicts, lists, numbers and strings: for any engine, under `weights_only=True` and in JSON.

        A rule that carries over adds `carried`, the tensors of the framework by name.
        """
        return {
            "version": STATE_VERSION,
            "rule": repr(self.rule),
            "step": self.step,
            "consecutive_skips": self.consecutive_skips,
            "thresholds": self._memories.plain(lambda array: self.last.to_host(array)),
            **({"carried": dict(self._carried)} if isinstance(self.rule, Carry) else {}),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up the memory that `state_dict` gave; a memory of another rule is refused."""
        if state.get("version") != STATE_VERSION:
            raise ValueError(f"expected a clipper state of version {STATE_VERSION}, found {state.get('version')!r}")
        if state["rule"] != repr(self.rule):
            raise ValueError(f"this state belongs to the rule {state['rule']!r}, the clipper has {self.rule!r}")
        self.step = state["step"]
        self.consecutive_skips = state["consecutive_skips"]
        self._memories.load(state["thresholds"])
        self._carried = dict(state.get("carried", {}))
