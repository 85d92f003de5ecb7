"""The clipper: one rule, applied step after step, with its memory and its last result.

A step goes through the phases of the rule; each is measured, decided, heeded (warn, skip, raise) and then written, so
that nothing is written before everything that could refuse has been asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias

from gradclip.decide import POLICIES, Plan, decide_sweep, elementwise_decision
from gradclip.engines.base import Across, Engine, Measure, UnsupportedGradient
from gradclip.errors import TooManySkips
from gradclip.result import ALL, Gradients, Part, Result
from gradclip.rules.arrays import Array, ArrayFunctions
from gradclip.rules.norm import RMS
from gradclip.rules.response import Raise, Rescale, SkipStep, Zero
from gradclip.rules.rule import AnyRule, Rule, checked_rule, rules_in
from gradclip.rules.scope import Group, Row
from gradclip.rules.segments import Segments, segments
from gradclip.rules.sweep import Phase, Sweep, phases_of
from gradclip.rules.threshold import State
from gradclip.verdict import alarming, asks_to_skip, refuse_nonfinite, warn_nonfinite, warn_unmatched

STATE_VERSION = 1
ALIKE = Segments(0)
"""The segments of a stage that was measured at its own scope: no index is needed."""

Work: TypeAlias = tuple[Part, Any, bool]
"""A part, the batch that it was measured from, and whether it is written already."""


class Memory(NamedTuple):
    """What a clipper remembers from step to step.

    `thresholds` has the memory of each threshold that adapts, by phase, pattern (`ALL` without patterns) and stage.
    """

    step: Any
    thresholds: dict[tuple[int, int, int], State]


class Clipper:
    """Applies a rule to the gradients of one step after another.

    `on_nonfinite` says what a segment with a NaN or an infinite element gets: "keep" (the default: it is not written,
    nothing is learnt from it, it is counted, and a warning names its parameter once), "skip" (the optimizer does not
    step), "zero", or "raise". `max_consecutive_skips` raises `TooManySkips` when more steps in a row are skipped.
    """

    def __init__(self, rule: AnyRule, *, on_nonfinite: str = "keep", max_consecutive_skips: int | None = None) -> None:
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
        self._states: dict[tuple[int, int, int], State] = {}
        self._last: Result | None = None
        self._warned = self._warned_unmatched = False

    @property
    def last(self) -> Result:
        """What the last clip did; reading its numbers is what waits for a device, nothing else does."""
        if self._last is None:
            raise RuntimeError("nothing was clipped yet: `last` exists after the first step with gradients")
        return self._last

    @property
    def memory(self) -> Memory:
        """The memory, for doors that keep it elsewhere: in the state of a compiled training step."""
        return Memory(self.step, dict(self._states))

    @memory.setter
    def memory(self, memory: Memory) -> None:
        self.step, self._states = memory.step, dict(memory.thresholds)

    def clip_gradients(self, gradients: Gradients, engine: Engine) -> Result:
        """Clip `gradients` in place with `engine`; the explicit forms and the hooks of every door end here."""
        result = Result(self.step, engine)
        gradients, whole = _gathered_once(engine, gradients)
        if len(self._phases) > 1:
            self._refuse_early(gradients, whole, engine)
        reads = not engine.waits or self.can_raise or self.max_consecutive_skips is not None
        for number, phase in enumerate(self._phases):
            works = self._decided(number, phase, gradients, engine, whole)
            result.parts += [part for part, _, _ in works]
            if reads and self._heed(works, engine, result, gradients.across):
                break
            for part, batch, written in works:
                if not written:
                    self._write(part, batch, engine)
            whole = None
        self._remember(result, reads)
        return result

    def _refuse_early(self, gradients: Gradients, whole: Any, engine: Engine) -> None:
        """Ask now whatever could refuse in a later phase, after an earlier one wrote."""
        for one in rules_in(self.rule):
            if isinstance(self.step, int) and not one.threshold.adapts:
                one.threshold.bounds(self.step)
        for phase in self._phases[1:]:
            _refuse_unordered(phase, gradients, engine)
        if self.on_nonfinite == "raise":
            refuse_nonfinite(gradients, whole, engine, self.step)

    def _decided(self, number: int, phase: Phase, gradients: Gradients, engine: Engine, whole: Any) -> list[Work]:
        """Each sweep of a phase, measured and decided; only the fused clamp writes, and only where none can refuse.

        `whole` is the batch of all gradients, if nothing was written since it was gathered.
        """
        works: list[Work] = []
        columns = _columns(phase, gradients)
        if not columns and phase.names is not None and not self._warned_unmatched:
            self._warned_unmatched = warn_unmatched(phase.names, gradients)
        for column, sweep, own in columns:
            sweep = sweep if own.across is None else _apart(sweep)
            batch = whole if own is gradients and whole is not None else _gathered(engine, own)
            decided = self._clamped if sweep.elementwise else self._rescaled
            try:
                works.append(decided((number, column), sweep, own, engine, batch))
            except UnsupportedGradient as error:
                raise _refused(own, error) from None
        return works

    def _rescaled(self, key: tuple[int, int], sweep: Sweep, own: Gradients, engine: Engine, batch: Any) -> Work:
        """A sweep of rescaling stages: one measure, then one decision a stage."""
        measure = engine.measure(batch, sweep.leaf, sweep.norm)
        shapes = engine.shapes(batch) if sweep.reads_shapes else ()
        count = len(sweep.stages)
        parts = _segments(sweep, shapes, own) if shapes else [ALIKE] * count
        plan = decide_sweep(
            measure,
            sweep.stages,
            parts,
            [self._memory((*key, stage), measure) for stage in range(count)] if self._adapts else [{}] * count,
            on_nonfinite=self.on_nonfinite,
            step=self.step,
            divisor=own.divisor,
            weights=_weights(sweep, own, engine) if sweep.reads_weights else None,
            across=own.across,
        )
        return Part(key, sweep, own.name, shapes, own.divisor, measure, plan, parts), batch, False

    def _memory(self, key: tuple[int, int, int], measure: Measure) -> State:
        """The memory of one threshold; what was loaded as a list becomes an array of the engine."""
        state = self._states.get(key, {})
        return {
            name: measure.xp.array(value, measure.total) if isinstance(value, list) else value
            for name, value in state.items()
        }

    def _clamped(self, key: tuple[int, int], sweep: Sweep, own: Gradients, engine: Engine, batch: Any) -> Work:
        """A stage at scope `Element`; an engine with a fused clamp measures and writes in the same read."""
        (rule,) = sweep.stages
        fuses = hasattr(engine, "clamp_") and isinstance(rule.response, Rescale) and self.on_nonfinite == "keep"
        if fuses and not (self.can_skip or self.can_raise):
            low, high = _bounds(rule, self.step, own.divisor, engine.xp)  # type: ignore[attr-defined]
            measure = engine.clamp_(batch, low, high)  # type: ignore[attr-defined]
        else:
            fuses, measure = False, engine.measure(batch, rule.scope, rule.norm)
        decision = elementwise_decision(measure, rule, self.on_nonfinite, self.step, own.divisor)
        part = Part(key, sweep, own.name, (), own.divisor, measure, Plan(None, [decision]), [ALIKE])
        return part, batch, fuses

    def _write(self, part: Part, batch: Any, engine: Engine) -> None:
        if not part.sweep.elementwise:
            engine.apply_(batch, part.sweep.leaf, part.plan.coefficient, self._zeroes)
            return
        if self.on_nonfinite == "zero":
            engine.purge_(batch)
        (rule,) = part.sweep.stages
        changes = part.measure.xp.any(part.plan.decisions[0].coefficient != 1.0)
        if engine.waits or changes or part.measure.xp.any(part.measure.nonfinite > 0):
            engine.map_(batch, rule.response, *_bounds(rule, self.step, part.divisor, part.measure.xp))

    def _heed(self, works: list[Work], engine: Engine, result: Result, across: Across | None) -> bool:
        """Whether to skip the step; raises or warns where the decisions say so. What one process skips, all skip."""
        alarms = [(part, batch) for part, batch, _ in works if alarming(part)]
        skips = [asks_to_skip(part, batch, engine, self.step, self.on_nonfinite) for part, batch in alarms]
        skip = any(skips)
        if across is not None and self.can_skip:
            xp, like = works[0][0].measure.xp, works[0][0].measure.total
            skip = engine.to_host(across.tensors(xp.array([float(skip)], like), "max"))[0] > 0
        result.settle(skip)
        for part, batch in alarms:
            if not skip and not self._warned and self.on_nonfinite == "keep":
                self._warned = warn_nonfinite(part, batch, engine, self.step)
        return skip

    def _remember(self, result: Result, settled: bool) -> None:
        for part in result.parts if self._adapts else ():
            for stage, decision in enumerate(part.plan.decisions):
                self._states[(*part.key, stage)] = decision.state
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
        """The memory as dicts, lists, numbers and strings: for any engine, under `weights_only=True` and in JSON."""
        return {
            "version": STATE_VERSION,
            "rule": repr(self.rule),
            "step": self.step,
            "consecutive_skips": self.consecutive_skips,
            "thresholds": {text_of(key): self._plain(state) for key, state in self._states.items()},
        }

    def _plain(self, state: State) -> dict[str, Any]:
        """Arrays as lists; a float is the array of an engine that has one segment."""
        return {
            name: value if isinstance(value, int | str | list) else self.last.to_host(value)
            for name, value in state.items()
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up the memory that `state_dict` gave; a memory of another rule is refused."""
        if state.get("version") != STATE_VERSION:
            raise ValueError(f"expected a clipper state of version {STATE_VERSION}, found {state.get('version')!r}")
        if state["rule"] != repr(self.rule):
            raise ValueError(f"this state belongs to the rule {state['rule']!r}, the clipper has {self.rule!r}")
        self.step = state["step"]
        self.consecutive_skips = state["consecutive_skips"]
        self._states = {key_of(text): dict(value) for text, value in state["thresholds"].items()}


def text_of(key: tuple[int, int, int]) -> str:
    """The key of a threshold's memory as text, for what is saved."""
    return " ".join(map(str, key))


def key_of(text: str) -> tuple[int, int, int]:
    """The key that became this text."""
    phase, pattern, stage = map(int, text.split())
    return phase, pattern, stage


def _columns(phase: Phase, gradients: Gradients) -> list[tuple[int, Sweep, Gradients]]:
    """The sweeps of a phase with the gradients that each is for; those with nothing to do are left out."""
    if phase.names is None:
        return [(ALL, sweep, gradients) for sweep in phase.sweeps if sweep is not None]
    matches = [phase.names.match(gradients.name(i)) for i in range(len(gradients.tensors))]
    columns = []
    for column, sweep in enumerate(phase.sweeps):
        indices = [i for i, match in enumerate(matches) if match == column]
        if sweep is not None and indices:
            columns.append((column, sweep, gradients.only(indices)))
    return columns


def _segments(sweep: Sweep, shapes: list[tuple[int, ...]], own: Gradients) -> list[Segments]:
    return [segments(one.scope, sweep.leaf, shapes, own.groups, isinstance(one.norm, RMS)) for one in sweep.stages]


def _apart(sweep: Sweep) -> Sweep:
    """`sweep` with a measure for each tensor, which is what processes that share gradients can sum up."""
    for one in sweep.stages:
        if isinstance(one.scope, Row | Group) or isinstance(one.norm, RMS):
            raise ValueError(
                f"the gradients are shared among processes, and gradclip cannot sum up {one!r} over them: clip each "
                "tensor or all together, by a norm other than RMS"
            )
    return replace(sweep, apart=True)


def _weights(sweep: Sweep, own: Gradients, engine: Engine) -> Measure:
    """The measure of the parameters over the segments of their gradients."""
    if own.weights is None:
        raise ValueError(f"the rule {sweep.stages!r} reads the weights, and this door was not given them")
    return engine.measure(engine.gather(own.weights()), sweep.leaf, sweep.norm)


def _bounds(rule: Rule, step: Any, divisor: Array, xp: ArrayFunctions) -> tuple[Any, Any]:
    """The bounds in the unit in which the gradients are stored."""
    low, high = rule.threshold.bounds(step, xp)
    return low * divisor, high * divisor


def _refuse_unordered(phase: Phase, gradients: Gradients, engine: Engine) -> None:
    """Refuse now what a later phase would refuse after an earlier one wrote."""
    for _, sweep, own in _columns(phase, gradients):
        if sweep.elementwise:
            try:
                engine.refuse_unordered(_gathered(engine, own))
            except UnsupportedGradient as error:
                raise _refused(own, error) from None


def _gathered_once(engine: Engine, gradients: Gradients) -> tuple[Gradients, Any]:
    """The gradients without those whose memory came before, and their batch: each counts and is scaled once."""
    batch = _gathered(engine, gradients)
    again = engine.repeated(batch)
    if not again:
        return gradients, batch
    gradients = gradients.only([i for i in range(len(gradients.tensors)) if i not in again])
    return gradients, _gathered(engine, gradients)


def _gathered(engine: Engine, own: Gradients) -> Any:
    try:
        return engine.gather(own.tensors)
    except UnsupportedGradient as error:
        raise _refused(own, error) from None


def _refused(own: Gradients, error: UnsupportedGradient) -> TypeError:
    return TypeError(f"the gradient of {own.name(error.index)!r} cannot be clipped: {error.reason}")
