"""The clips for `grad_clip=` of an optimizer: Paddle's three names, and `Clip` for any rule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import paddle
from paddle.nn.clip import ClipGradBase

from gradclip.paddle.clipper import Clipper
from gradclip.paddle.groups import Call, Turns, call_with, later_groups, refuse_group_sharded
from gradclip.paddle.lbfgs import warn_from_lbfgs
from gradclip.paddle.optimizer_state import take_up
from gradclip.paddle.parameters import NeedClip, Pair, needs_clip
from gradclip.paddle.static import Graph, clip_in_graph
from gradclip.rules import recipes
from gradclip.rules.arrays import Array
from gradclip.rules.rule import AnyRule, rules_in
from gradclip.rules.threshold import Limit, Threshold
from gradclip.step.respond import report_nothing
from gradclip.step.result import Result
from gradclip.telemetry import Telemetry

OLD_WAY = "give the clip to the optimizer, paddle.optimizer.SGD(0.1, parameters=..., grad_clip=clip)"


class Clip(paddle.nn.ClipGradByNorm):
    """Clips the gradients of an optimizer of Paddle by any rule, in each of its steps.

    Goes into `grad_clip=` of every optimizer that calls it (LBFGS does not, and says so) and of a parameter group, in
    dynamic mode, in both kinds of static mode and under `jit.to_static`. All parameter groups with this clip are
    clipped together. A parameter with `ParamAttr(need_clip=False)`, or one that the function `need_clip` refuses, is
    neither measured nor scaled. `on_nonfinite` "keep", "skip", "zero" or "raise" and `max_consecutive_skips`:
    `gradclip.clipper.Clipper`; a skipped step leaves the parameters and the optimizer's memory alone. `engine`:
    `gradclip.paddle.Clipper`; `telemetry` (dynamic mode): `gradclip.telemetry.Telemetry`. Names in rules and errors are
    those of the parameters, such as "linear_0.w_0".

    >>> linear = paddle.nn.Linear(2, 1)
    >>> clip = Clip(gradclip.ClipGradByNorm(10.0) >> gradclip.ClipGradByGlobalNorm(1.0))
    >>> optimizer = paddle.optimizer.SGD(0.1, parameters=linear.parameters(), grad_clip=clip)
    >>> linear(paddle.full([8, 2], 100.0)).square().sum().backward()
    >>> optimizer.step()
    >>> clip.last.clipped, round(clip.last.norm_after, 6)
    (True, 1.0)
    """

    def __init__(
        self,
        rule: AnyRule,
        *,
        need_clip: NeedClip | None = None,
        on_nonfinite: str = "keep",
        max_consecutive_skips: int | None = None,
        engine: str | None = None,
        telemetry: Telemetry | None = None,
    ) -> None:
        ClipGradBase.__init__(self)  # of ClipGradByNorm is the name alone: `Model.prepare` takes it at level O2
        self.clipper: Clipper = Clipper(
            rule,
            on_nonfinite=on_nonfinite,
            max_consecutive_skips=max_consecutive_skips,
            need_clip=need_clip,
            engine=engine,
            telemetry=telemetry,
        )
        self._turns = Turns()
        self._graph: Graph | None = None
        self._reported = False
        warn_from_lbfgs(Clip)

    @property
    def rule(self) -> AnyRule:
        """The rule that this clip applies; in dynamic mode another one may be set between two steps."""
        return self.clipper.rule

    @rule.setter
    def rule(self, rule: AnyRule) -> None:
        if self._graph is not None:
            raise RuntimeError(f"{self.rule!r} is part of a static program: build another one, with another clip")
        self.clipper.rule = rule

    @property
    def last(self) -> Result:
        """What the last step did: in a static graph, the last run of the program in the current scope."""
        return self.clipper.last if self._graph is None else self._graph.last

    def give(self, **numbers: Any) -> None:
        """Hand over numbers that the rule reads beside the gradients, before `optimizer.step()`: `give(loss=loss)`."""
        self.clipper.give(**numbers)

    def state_dict(self) -> dict[str, Any]:
        """The memory as plain data: the count of steps and what thresholds that adapt remember.

        Save it beside the state of the optimizer, `paddle.save(clip.state_dict(), "step-100.pdclip")`, which
        `paddle.load` gives back; in `paddle.Model.fit` `gradclip.paddle.ModelCallback` does both.
        """
        return self.clipper.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up the memory that `state_dict` gave; a memory of another rule is refused."""
        self.clipper.load_state_dict(state)

    def _dygraph_clip(self, params_grads: list[Pair]) -> list[Pair]:
        """The pairs that have a gradient, clipped, in their order; none if the step is to be skipped."""
        pairs = [pair for pair in params_grads if pair[1] is not None]
        call = call_with(params_grads)
        if call.overflowed:
            self.clipper.taken_given()
            return pairs
        if self.clipper.can_skip:
            call.refuse_skips()
        if self.clipper.step == 0:
            refuse_group_sharded()
            take_up(call.optimizer, self)
        if call.is_first_of(self):
            self._turns = Turns()  # of a step that never came to its end
        if (clipped := self._turns.taken(pairs)) is not None:
            return clipped
        later, numbers = later_groups(self, call)
        if not pairs and (later or not call.is_first_of(self)):
            return []  # a group without gradients; another one clips
        self._graph, before = None, self.clipper.step
        groups = None if call.number is None else [call.number] * len(pairs) + numbers
        clipped = self.clipper.clip_pairs(pairs + later, groups, optimizer=call.optimizer)
        if self.clipper.step == before:
            self._report_nothing(call)
        self._turns.put(later, clipped[len(pairs) :])
        return clipped[: len(pairs)]

    def _pir_clip(self, params_grads: list[Pair]) -> list[Pair]:
        return self._clip_in_graph(params_grads)

    def _static_clip(self, params_grads: list[Pair]) -> list[Pair]:
        return self._clip_in_graph(params_grads)

    def _clip_in_graph(self, params_grads: list[Pair]) -> list[Pair]:
        pairs, self._graph = clip_in_graph(
            self.clipper, params_grads, lambda parameter: needs_clip(parameter, self.clipper.need_clip)
        )
        return pairs

    def _process_context(self, context: object, param: object, grad: object) -> None:
        raise NotImplementedError(f"set_gradient_clip would not clip by this rule: {OLD_WAY}")

    def _create_operators(self, param: object, grad: object) -> None:
        raise NotImplementedError(f"set_gradient_clip would not clip by this rule: {OLD_WAY}")

    def _report_nothing(self, call: Call) -> None:
        """Say once that a whole step had nothing to clip; of several groups the first one speaks."""
        if not self._reported and call.is_first_of(self):
            self._reported = True
            report_nothing("the optimizer stepped and no parameter that needs clipping had a gradient (said once)")

    def __getstate__(self) -> dict[str, Any]:
        """What copies and pickles keep: everything but the last step."""
        return {**self.__dict__, "_graph": None}

    def __str__(self) -> str:
        return repr(self.rule)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.rule!r}>"


class ClipGradByValue(Clip):
    """Clip each element of the gradients to the interval [min, max].

    Formula: `out = clamp(g, min, max)`; `min=None` means `-max`. Bounds have the unit of the gradient, `min < 0 < max`;
    shape and dtype of the gradient stay. `max` may be a `Schedule`. An infinite element becomes its bound, NaN stays
    NaN and is counted. Changes the direction of the gradient. Raises `ValueError` or `TypeError` for other bounds.
    Other arguments, modes and groups: `Clip`.
    Source: T. Mikolov 2012, as R. Pascanu, T. Mikolov, Y. Bengio 2013, arXiv:1211.5063, section 3.2, report it;
    arguments as `paddle.nn.ClipGradByValue`.

    >>> linear = paddle.nn.Linear(10, 10)
    >>> clip = ClipGradByValue(max=1.0, min=-0.5)
    >>> optimizer = paddle.optimizer.SGD(0.1, parameters=linear.parameters(), grad_clip=clip)
    >>> linear(paddle.full([4, 10], 100.0)).sum().backward()
    >>> optimizer.step()
    >>> clip.last.norm_before, clip.last.norm_after
    (400.0, 1.0)
    """

    def __init__(self, max: Limit, min: float | None = None, need_clip: NeedClip | None = None, **options: Any) -> None:
        super().__init__(recipes.ClipGradByValue(max, min), need_clip=need_clip, **options)

    @property
    def max(self) -> Array:
        """The upper bound."""
        return _threshold(self).bounds(self.clipper.step)[1]

    @property
    def min(self) -> Array:
        """The lower bound."""
        return _threshold(self).bounds(self.clipper.step)[0]


class ClipGradByNorm(Clip):
    """Rescale the gradient of each parameter alone to a norm of at most `clip_norm`.

    Formula: `out = g * min(1, clip_norm / ||g||_2)`. `clip_norm` has the unit of the gradient, is above 0 (`None` or
    infinity: measure only) and may be a `Schedule`. Shape, dtype and direction of each gradient stay; the direction of
    all together does not. Raises `ValueError` or `TypeError` for other values. Other arguments, modes and groups:
    `Clip`.
    Source: R. Pascanu, T. Mikolov, Y. Bengio 2013, arXiv:1211.5063, section 3.2, applied to each tensor; arguments as
    `paddle.nn.ClipGradByNorm`.

    >>> linear = paddle.nn.Linear(10, 10)
    >>> clip = ClipGradByNorm(clip_norm=1.0)
    >>> optimizer = paddle.optimizer.SGD(0.1, parameters=linear.parameters(), grad_clip=clip)
    >>> linear(paddle.full([4, 10], 100.0)).sum().backward()
    >>> optimizer.step()
    >>> [round(segment.norm_after, 6) for segment in clip.last.segments]
    [1.0, 1.0]
    """

    def __init__(self, clip_norm: Limit, need_clip: NeedClip | None = None, **options: Any) -> None:
        super().__init__(recipes.ClipGradByNorm(clip_norm), need_clip=need_clip, **options)

    @property
    def clip_norm(self) -> Array:
        """The threshold."""
        return _threshold(self).value(self.clipper.step)


class ClipGradByGlobalNorm(Clip):
    """Rescale all gradients by one factor, so that their norm taken together is at most `clip_norm`.

    Formula: `out_i = g_i * min(1, clip_norm / (sum_j ||g_j||_2^2)^(1/2))`, over all parameter groups with this clip.
    `clip_norm` has the unit of the gradient, is above 0 (`None` or infinity: measure only) and may be a `Schedule`.
    Shapes, dtypes and the direction of the whole gradient stay. `auto_skip_clip` chooses nothing: gradients at or below
    the threshold are never written. `group_name` is kept for Paddle. Raises `ValueError` or `TypeError` for other
    values. Other arguments, modes and groups: `Clip`. It is no subclass of Paddle's class of this name, which fleet
    would replace by its own.
    Source: R. Pascanu, T. Mikolov, Y. Bengio 2013, arXiv:1211.5063, section 3.2; arguments as
    `paddle.nn.ClipGradByGlobalNorm`.

    >>> linear = paddle.nn.Linear(10, 10)
    >>> clip = ClipGradByGlobalNorm(clip_norm=1.0)
    >>> optimizer = paddle.optimizer.SGD(0.1, parameters=linear.parameters(), grad_clip=clip)
    >>> linear(paddle.full([4, 10], 100.0)).sum().backward()
    >>> optimizer.step()
    >>> clip.last.clipped, round(clip.last.norm_after, 6)
    (True, 1.0)
    """

    def __init__(
        self,
        clip_norm: Limit,
        group_name: str = "default_group",
        auto_skip_clip: bool = False,
        need_clip: NeedClip | None = None,
        **options: Any,
    ) -> None:
        super().__init__(recipes.ClipGradByGlobalNorm(clip_norm), need_clip=need_clip, **options)
        self.group_name = group_name
        self.auto_skip_clip = auto_skip_clip

    @property
    def clip_norm(self) -> Array:
        """The threshold."""
        return _threshold(self).value(self.clipper.step)


def _threshold(clip: Clip) -> Threshold:
    """The threshold of a clip with a single rule."""
    (rule,) = rules_in(clip.rule)
    return rule.threshold
