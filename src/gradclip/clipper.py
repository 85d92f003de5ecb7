"""The clipper: one rule, applied step after step, with its memory and its last result.

A step goes through the phases of the rule; each is measured, decided, heeded (warn, skip, raise) and then written, so
that nothing is written before everything that could refuse has been asked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

from gradclip.carry import clip_carrying
from gradclip.decide import POLICIES, Plan, decide_sweep, elementwise_decision
from gradclip.engines.base import Across, Engine, Measure, UnsupportedGradient
from gradclip.errors import GradientAboveThreshold, NonFiniteGradient, TooManySkips
from gradclip.memory import Memories, Memory, Owners
from gradclip.moments import over_moments
from gradclip.parts import (
    ALIKE,
    Work,
    apart,
    bounds_of,
    broken_in,
    columns_of,
    gathered,
    gathered_once,
    measured,
    nothing,
    numbers_of,
    own_bounds_of,
    refuse_unfit,
    refused,
    segments_of,
    weights_of,
)
from gradclip.result import Gradients, Part, Result
from gradclip.rules.arrays import SCALARS
from gradclip.rules.response import Raise, Rescale, SkipStep, Zero
from gradclip.rules.rule import AnyRule, Carry, checked_rule, rules_in
from gradclip.rules.sweep import Phase, Sweep, phases_of
from gradclip.rules.threshold import SecondMoment, State
from gradclip.telemetry import Telemetry
from gradclip.verdict import (
    alarming,
    asks_to_skip,
    broken_names,
    offenders,
    refuse_nonfinite,
    warn_nonfinite,
    warn_unmatched,
)

STATE_VERSION = 1
NO_MOMENTS = (
    "this rule reads the second moments of an optimizer like Adam, and there are none: attach(optimizer, rule) in "
    "PyTorch, grad_clip= of the optimizer in Paddle (dynamic mode), update(..., moments=...) in JAX"
)


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
            if not isinstance(number, Real) and not hasattr(number, "shape"):
                raise TypeError(f"the {name} is a number or a tensor of one element, got {number!r}")
            if not is_one(number):
                shape = tuple(number.shape)
                raise ValueError(f"the {name} is one number, got a tensor of shape {shape}: give its mean")
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
        self._refuse_missing(gradients)
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
        reads = not engine.waits or self.can_raise or self.max_consecutive_skips is not None
        for number, phase in enumerate(self._phases):
            works = self._decided(number, phase, gradients, engine, whole)
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

    def _refuse_missing(self, gradients: Gradients) -> None:
        if self.reads_moments:
            if gradients.moments is None:
                raise ValueError(f"{self.rule!r}: {NO_MOMENTS}")
            gradients.moments()  # an optimizer that has none says so
        for name in self.reads_given:
            if name in gradients.given:
                continue
            when = f" at step {self.step}" if isinstance(self.step, int) else ""
            raise ValueError(
                f"the rule reads the {name}, which was not given{when}: call clipper.give({name}=...) before each "
                f"optimizer.step(), in JAX update(..., {name}=...)"
            )

    def _refuse_early(self, gradients: Gradients, whole: Any, engine: Engine) -> None:
        """Ask now whatever could refuse after something was written."""
        for one in rules_in(self.rule):
            if isinstance(self.step, int) and not one.threshold.adapts:
                one.threshold.bounds(self.step)
        for phase in self._late:
            refuse_unfit(phase, gradients, engine)
        if self.on_nonfinite == "raise":
            refuse_nonfinite(gradients, whole, engine, self.step)

    def _decided(self, number: int, phase: Phase, gradients: Gradients, engine: Engine, whole: Any) -> list[Work]:
        """Each sweep of a phase, measured and decided; only the fused clamp writes, and only where none can refuse.

        `whole` is the batch of all gradients, if nothing was written since it was gathered.
        """
        works: list[Work] = []
        columns = columns_of(phase, gradients)
        if not columns and phase.names is not None and not self._warned_unmatched:
            self._warned_unmatched = warn_unmatched(phase.names, gradients)
        for column, sweep, own in columns:
            if own.across is not None:
                sweep = apart(sweep)
            batch = whole if own is gradients and whole is not None else gathered(engine, own)
            decided = self._clamped if sweep.elementwise else self._rescaled
            try:
                works.append(decided((number, column), sweep, own, engine, batch))
            except UnsupportedGradient as error:
                raise refused(own, error) from None
        return works

    def _rescaled(self, key: tuple[int, int], sweep: Sweep, own: Gradients, engine: Engine, batch: Any) -> Work:
        """A sweep of rescaling stages: one measure, then one decision a stage."""
        tells = self.telemetry is not None and self.telemetry.tensors
        measure, each = measured(engine, batch, sweep, len(own.tensors) if tells else 0)
        lifted = sweep.keeps_rows and measure.xp is SCALARS
        measure = engine.in_arrays(measure) if lifted else measure  # type: ignore[attr-defined]
        shapes = engine.shapes(batch, sweep.leaf) if sweep.reads_shapes else ()
        parts = segments_of(sweep, shapes, own) if shapes else [ALIKE] * len(sweep.stages)
        owners, states = self._recalled(key, sweep, own, shapes, measure)
        plan = decide_sweep(
            measure,
            sweep.stages,
            parts,
            states,
            on_nonfinite=self.on_nonfinite,
            step=self.step,
            divisor=own.divisor,
            weights=weights_of(sweep, own, engine, shapes) if sweep.reads_weights else None,
            across=own.across,
            given=numbers_of(own, measure),
            broken=own.broken,
        )
        if lifted:
            plan = plan._replace(coefficient=plan.coefficient.item())
        part = Part(key, sweep, own.name, shapes, own.divisor, measure, plan, parts, owners, each)
        return Work(part, batch, False)

    def _recalled(
        self,
        key: tuple[int, int],
        sweep: Sweep,
        own: Gradients,
        shapes: Sequence[tuple[int, ...]],
        measure: Measure,
    ) -> tuple[list[Owners], list[State]]:
        """For each stage whose its segments are, and what its threshold remembers of them."""
        count = len(sweep.stages)
        if not self._adapts:
            return [()] * count, [{}] * count
        groups, names = max(own.groups or [0]) + 1, lambda: list(map(own.name, range(len(own.tensors))))
        keys = [(*key, stage) for stage in range(count)]
        owners = [
            self._memories.owners(k, one, names, shapes, groups) for k, one in zip(keys, sweep.stages, strict=True)
        ]
        pairs = zip(keys, owners, strict=True)
        return owners, [self._memories.state(k, live, measure.total, measure.xp) for k, live in pairs]

    def _clamped(self, key: tuple[int, int], sweep: Sweep, own: Gradients, engine: Engine, batch: Any) -> Work:
        """A stage at scope `Element`; an engine with a fused clamp measures and writes in the same read."""
        (rule,), finish = sweep.stages, nothing
        relative = rule.threshold if isinstance(rule.threshold, SecondMoment) else None
        if relative:
            engine.refuse_unordered(batch)
            tensors, finish = over_moments(own, relative.factor, engine)
            own, batch = own._replace(tensors=tensors, divisor=1.0), engine.gather(tensors)
        fuses = hasattr(engine, "clamp_") and isinstance(rule.response, Rescale) and self.on_nonfinite == "keep"
        if fuses and not (relative or rule.threshold.adapts) and not (self.can_skip or self.can_raise):
            low, high = bounds_of(rule, self.step, own.divisor, engine.xp)  # type: ignore[attr-defined]
            measure = engine.clamp_(batch, low, high)  # type: ignore[attr-defined]
        else:
            fuses, measure = False, engine.measure(batch, rule.scope, rule.norm)
        owners, (state,) = self._recalled(key, sweep, own, (), measure)
        decision = elementwise_decision(
            measure,
            rule,
            self.on_nonfinite,
            self.step,
            own.divisor,
            state,
            own.across,
            numbers_of(own, measure),
            own.broken,
        )
        part = Part(key, sweep, own.name, (), own.divisor, measure, Plan(None, [decision]), [ALIKE], owners)
        return Work(part, batch, fuses, finish)

    def _write(self, part: Part, batch: Any, engine: Engine) -> None:
        if not part.sweep.elementwise:
            engine.apply_(batch, part.sweep.leaf, part.plan.coefficient, self._zeroes)
            return
        if self.on_nonfinite == "zero":
            engine.purge_(batch)
        (rule,), (decision,), xp = part.sweep.stages, part.plan.decisions, part.measure.xp
        if engine.waits or xp.any(decision.coefficient != 1.0) or xp.any(part.measure.nonfinite > 0):
            adapted = rule.threshold.adapts
            bounds = own_bounds_of(part) if adapted else bounds_of(rule, self.step, part.divisor, xp)
            engine.map_(batch, rule.response, *bounds)

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


def is_one(number: Any) -> bool:
    """Whether this is a number, or a tensor of one element."""
    return isinstance(number, Real) or (hasattr(number, "shape") and math.prod(number.shape) == 1)
