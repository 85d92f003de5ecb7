"""The clipper: one rule, applied step after step, with its memory and its last result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gradclip.engines.base import Engine
from gradclip.errors import GradientAboveThreshold, NonFiniteGradient, NothingClipped, TooManySkips
from gradclip.rules.rule import AnyRule, checked_rule
from gradclip.rules.segments import Shape
from gradclip.step.checkpoint import load_state, state_of
from gradclip.step.gradients import Gradients, gathered, is_one, refuse_many
from gradclip.step.layout import LineUp
from gradclip.step.memory import Memories, Memory
from gradclip.step.nonfinite import nonfinite_here
from gradclip.step.policy import checked_skip_limit, policy_of
from gradclip.step.respond import Answer, too_many_skips
from gradclip.step.result import Result
from gradclip.step.run import run
from gradclip.step.write import write
from gradclip.telemetry import Telemetry
from gradclip.telemetry.collector import checked_telemetry


class Clipper:
    """Applies a rule to the gradients of one step after another.

    `on_nonfinite` says what a segment with a NaN or an infinite element gets: "keep" (the default: it is not written,
    nothing is learnt from it, it is counted, and a warning names its parameter once), "skip" (the optimizer does not
    step), "zero", or "raise". `max_consecutive_skips` raises `TooManySkips` when more steps in a row are skipped.
    `telemetry` hears of every step, of one that raises too: `gradclip.telemetry.Telemetry`.

    `rule` may be changed between two steps: `clipper.rule = ClipGradByNorm(0.5)`. What thresholds remember stays where
    the new rule has one in the same place that remembers the same of the same norms, and else begins anew. A copy or a
    pickle has the rule and the memory and no telemetry, whose files belong to one clipper. Where `tensors` is set to
    True, `last.tensors` has the norm of each tensor without a telemetry that asks for it.

    >>> from gradclip.rules.recipes import ClipGradByGlobalNorm, ClipGradByNorm
    >>> clipper = Clipper(ClipGradByGlobalNorm(1.0), on_nonfinite="skip")
    >>> clipper.rule = ClipGradByNorm(0.5)
    >>> clipper.step
    0
    """

    def __init__(
        self,
        rule: AnyRule,
        *,
        on_nonfinite: str = "keep",
        max_consecutive_skips: int | None = None,
        telemetry: Telemetry | None = None,
    ) -> None:
        self.on_nonfinite = on_nonfinite
        self._lay_out(LineUp(checked_rule(rule), policy_of(on_nonfinite)))
        self.max_consecutive_skips: int | None = checked_skip_limit(max_consecutive_skips)
        self.step: Any = 0
        self.consecutive_skips: int = 0
        self.memories: Memories = Memories()
        self.carried: dict[str, Any] = {}
        self.tensors = False
        self._given: dict[str, Any] = {}
        self._last: Result | None = None
        self.telemetry: Telemetry | None = checked_telemetry(telemetry)
        if self.telemetry is not None:
            self.telemetry.serve(self)

    @property
    def rule(self) -> AnyRule:
        """The rule; another one may be set between two steps."""
        return self.line.rule

    @rule.setter
    def rule(self, rule: AnyRule) -> None:
        line = LineUp(checked_rule(rule), policy_of(self.on_nonfinite))
        before = self.line
        self._lay_out(line)
        self.memories.keep(lambda key: line.fits(key, before))
        if not line.carries:
            self.carried = {}

    def _lay_out(self, line: LineUp) -> None:
        """Begin to clip by a rule; a door refuses here what it cannot do with it, before anything is changed."""
        self.line = line
        self.can_skip: bool = line.can_skip
        self.can_raise: bool = line.can_raise
        self.reads_moments: bool = line.reads_moments
        self.reads_given: frozenset[str] = line.reads_given
        self.answer: Answer = Answer(line.policy, line.can_skip or line.can_raise)

    def __getstate__(self) -> dict[str, Any]:
        """What a copy begins with: no telemetry, for two clippers would write into one run."""
        return {**self.__dict__, "telemetry": None}

    @property
    def hears(self) -> frozenset[str]:
        """The numbers beside the gradients that are wanted: those that the rule reads, and for telemetry the loss."""
        return self.reads_given if self.telemetry is None else self.reads_given | {"loss"}

    @property
    def listeners(self) -> int:
        """What of a step is heard here: 0 nothing, 1 the result, 2 the norm of each tensor as well."""
        return 2 if self.tensors else 0 if self.telemetry is None else 1 + self.telemetry.tensors

    @property
    def last(self) -> Result:
        """What the last clip did; reading its numbers is what waits for a device, nothing else does."""
        if self._last is None:
            raise NothingClipped("nothing was clipped yet: `last` exists after the first step with gradients")
        return self._last

    @property
    def memory(self) -> Memory:
        """The memory, for doors that keep it elsewhere: in the state of a compiled training step."""
        return Memory(self.step, self.memories.states, dict(self.carried))

    @memory.setter
    def memory(self, memory: Memory) -> None:
        self.step = memory.step
        self.memories.states = memory.thresholds
        self.carried = dict(memory.carried)

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
        if "loss" in self.hears - self._given.keys() and ("loss" in self.reads_given or is_one(loss)):
            self.give(loss=loss)

    def taken_given(self) -> dict[str, Any]:
        """What was given for this step, of which the next step hears nothing."""
        given, self._given = self._given, {}
        return {name: given[name] for name in self.hears if name in given}

    def clip_gradients(self, gradients: Gradients, engine: Engine) -> Result:
        """Clip `gradients` in place with `engine`; the explicit forms and the hooks of every door end here.

        A step that raises is one that telemetry hears of, too.
        """
        result = Result(self.step, engine, gradients.overflow, gradients.given.get("loss"))
        try:
            read = run(self, gradients, result, self.listeners)
            self._last = result
            self.step += 1
            if read:
                self.count_skip(result.skipped)
        except (NonFiniteGradient, GradientAboveThreshold, TooManySkips) as error:
            result.settle(True)
            result.looked_up = list(getattr(error, "parameters", result.looked_up))
            self._tell(result, gradients)
            raise
        self._tell(result, gradients)
        if self.answer.pending:
            self.answer.speak()
        return result

    write = write
    """Write a part of a step; a door may hand the coefficient to its optimizer instead."""

    def _tell(self, result: Result, gradients: Gradients) -> None:
        if self.telemetry is not None and self.tells():
            self.telemetry.note(result, self.rule, gradients)

    def tell_left_out(self, gradients: Gradients, engine: Engine) -> None:
        """Tell telemetry of a step that a loss scaler leaves out: nothing is measured but which tensors are broken."""
        if self.telemetry is not None and self.tells():
            result = Result(self.step, engine)
            result.settle(True)
            result.looked_up = nonfinite_here(gradients.name, gathered(engine, gradients), engine)
            self.telemetry.note(result, self.rule, gradients, left_out=True)

    def tells(self) -> bool:
        """Whether it is this process whose telemetry tells, of those that train together."""
        return True

    def count_skip(self, skipped: bool) -> None:
        """Count a step as taken or skipped, and raise when too many in a row were skipped."""
        self.consecutive_skips = self.consecutive_skips + 1 if skipped else 0
        limit = self.max_consecutive_skips
        if limit is not None and self.consecutive_skips > limit:
            raise too_many_skips(self.consecutive_skips, limit, self.step - 1)

    def shapes(self) -> Mapping[str, Shape]:
        """The shapes of what is clipped, by name, as far as they are known before it is given."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """The memory as dicts, lists, numbers and strings: for any engine, under `weights_only=True` and in JSON.

        A rule that carries over adds `carried`, the tensors of the framework by name.
        """
        return state_of(self, lambda array: self.last.to_host(array))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up the memory that `state_dict` gave; a memory of another rule is refused."""
        load_state(self, state)
