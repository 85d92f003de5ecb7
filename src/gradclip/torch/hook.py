"""The clipper that lives in the optimizer's own step.

A step pre-hook fires on real steps only, so accumulation and schedulers are right by construction. What is not right
by construction is handled here, one function for each trap.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import partial
from typing import Any, NamedTuple, Self

import torch
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from gradclip.engines.base import Batch, Engine, Gradient
from gradclip.rules.rule import AnyRule
from gradclip.rules.segments import Shape
from gradclip.step.gradients import Gradients
from gradclip.step.layout import LineUp
from gradclip.step.part import Part
from gradclip.step.respond import report_nothing
from gradclip.step.result import Result
from gradclip.telemetry import Telemetry
from gradclip.torch.base_step import UpdateStep, is_nested
from gradclip.torch.clipper import Clipper, drop
from gradclip.torch.closures import with_closure
from gradclip.torch.eager import eager
from gradclip.torch.optimizers import STEP_IN_BACKWARD, refuse_step_in_backward, spans_tensors
from gradclip.torch.parameters import NeedClip, are_sharded, of_optimizers, second_moments
from gradclip.torch.pinned import PinnedNorm
from gradclip.torch.scaler import begun, listen, stop_listening, to_be_left_out
from gradclip.torch.step_attributes import StepAttributes, refuse_through
from gradclip.torch.unchanged import States, states_of, unchanged
from gradclip.torch.update import Before, clip_update, refuse_for_updates, values_before

_attached: weakref.WeakKeyDictionary[Optimizer, weakref.ref[AttachedClipper]] = weakref.WeakKeyDictionary()
"""The clipper of each optimizer. Its hooks keep it alive; a strong reference here would keep both for ever."""

OF_THE_HOOKS = frozenset(
    ("_before", "_clipped", "_handles", "_left_out_states", "_pinned", "_step_attributes", "_update_steps")
)
"""What an attached clipper keeps that is of its own optimizers and hooks, and no part of a copy."""


class Options(NamedTuple):
    """How a rule is attached: see `attach`."""

    on_nonfinite: str = "keep"
    max_consecutive_skips: int | None = None
    need_clip: NeedClip | None = None
    engine: str | None = None
    through_grad_scale: bool = False
    place: str = "gradient"
    telemetry: Telemetry | None = None
    groups: Mapping[str, torch.distributed.ProcessGroup] | None = None
    pipeline: torch.distributed.ProcessGroup | None = None

    def __deepcopy__(self, memo: Any) -> Options:
        shared = ("groups", "pipeline")  # a process group is one for all
        return self._replace(**{k: deepcopy(v, memo) for k, v in self._asdict().items() if k not in shared})


class AttachedClipper(Clipper):
    """A clipper that lives in the step of one or several optimizers; made by `attach`.

    It lives as long as they do, and does not keep them: an optimizer that nobody has any more is freed at once, with
    its parameters and its memory, and is none of `optimizers`.

    `copy.deepcopy` and `pickle` of it with its optimizers, as of an object that holds both, give a clipper that is
    attached to the copies; a copy of an optimizer alone has no hooks: attach to it again.

    >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))], lr=0.1)
    >>> with gradclip.attach(optimizer, gradclip.ClipGradByNorm(1.0)) as clipper:
    ...     clipper.attached
    True
    >>> clipper.attached
    False
    """

    attached: bool = False

    def __init__(
        self, optimizers: list[Optimizer], rule: AnyRule, model: torch.nn.Module | None, options: Options
    ) -> None:
        super().__init__(
            rule,
            on_nonfinite=options.on_nonfinite,
            max_consecutive_skips=options.max_consecutive_skips,
            need_clip=options.need_clip,
            engine=options.engine,
            telemetry=options.telemetry,
            groups=options.groups,
            pipeline=options.pipeline,
        )
        self._optimizers = list(map(weakref.ref, optimizers))
        self.options = options
        self.model = model
        self._refuse(self.line)
        self._hook()

    @property
    def optimizers(self) -> list[Optimizer]:
        """The optimizers in whose steps it clips."""
        return [optimizer for known in self._optimizers if (optimizer := known()) is not None]

    def _lay_out(self, line: LineUp) -> None:
        """Begin to clip by a rule, also while attached: which hooks it takes depends on it."""
        rehooks = self.attached
        if rehooks:
            self._refuse(line)
            self._unhook()
        super()._lay_out(line)
        if rehooks:
            self._hook()

    def _refuse(self, line: LineUp) -> None:
        """Refuse a rule that these optimizers cannot be clipped by in the way that was asked for."""
        refuse_step_in_backward(self.optimizers, line.rule)
        if self.options.through_grad_scale:
            refuse_through(self.optimizers, line.phases, line.rule, line.writes_zeros)
        if self.options.place == "update":
            refuse_for_updates(self.optimizers, line, self.on_nonfinite, self.options.through_grad_scale)

    def _hook(self) -> None:
        """Hook into the steps of the optimizers, of which nothing is known yet."""
        self._through, self._on_update = self.options.through_grad_scale, self.options.place == "update"
        self._before: Before | None = None
        self._spans = spans_tensors(self.rule)
        self._clipped: dict[int, States] = {}
        self._step_attributes = StepAttributes()
        self._pinned = PinnedNorm()
        self._left_out_states: dict[int, States] = {}
        if self.telemetry is not None:
            listen(self)
        self._update_steps = {id(optimizer): UpdateStep(optimizer) for optimizer in self.optimizers}
        before, after = eager(self._before_step), eager(self._after_step)
        self._handles = [optimizer.register_step_pre_hook(before) for optimizer in self.optimizers]
        if self._on_update or self._through or self.can_skip:
            self._handles += [optimizer.register_step_post_hook(after) for optimizer in self.optimizers]
        for optimizer in self.optimizers:
            if (step := self._update_steps[id(optimizer)]).delegates:
                self._handles.append(optimizer.register_step_post_hook(eager(step.after)))
            _attached[optimizer] = weakref.ref(self)
        self.attached = True

    def _unhook(self) -> None:
        self._step_attributes.restore()
        if self.telemetry is not None:
            stop_listening(self)
            self.telemetry.drain()
        for handle in self._handles:
            handle.remove()
        self.attached = False

    def __getstate__(self) -> dict[str, Any]:
        """What a copy begins with, which has the optimizers that were copied with it: nothing of a step at work."""
        kept = {name: value for name, value in super().__getstate__().items() if name not in OF_THE_HOOKS}
        return {**kept, "_optimizers": self.optimizers, "options": self.options._replace(telemetry=None)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Hook a copy into its own optimizers, if what it was copied from was attached to them."""
        self.__dict__.update(state, _optimizers=list(map(weakref.ref, state["_optimizers"])))
        if self.attached and any(clipper_of(optimizer) is not None for optimizer in self.optimizers):
            self.attached = False
        if self.attached:
            self._hook()

    @property
    def waits(self) -> bool:
        """Whether the numbers of the last step are on a device, for which who reads them waits."""
        return self._last is not None and self._last.source.waits

    def detach(self) -> None:
        """Take the hooks away; the optimizers step as before, and telemetry has heard of all steps so far."""
        if self.attached:
            self._unhook()

    def shapes(self) -> Mapping[str, Shape]:
        """The shapes of the parameters, by name; of one that has none yet nothing is known."""
        found = of_optimizers(self.optimizers, self.model)
        known = [index for index, tensor in enumerate(found.tensors) if not is_lazy(tensor)]
        return {found.name(index): tuple(found.tensors[index].shape) for index in known}

    def state_dict(self) -> dict[str, Any]:
        """The memory, as that of every clipper; with telemetry also how many steps a GradScaler has left out."""
        self._know_sharding()
        count = {} if self.telemetry is None else {"left_out": self.telemetry.left_out}
        return {**super().state_dict(), **count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up the memory that `state_dict` gave; a memory of another rule is refused."""
        super().load_state_dict(state)
        if self.telemetry is not None:
            self.telemetry.left_out = state.get("left_out", 0)

    def _know_sharding(self) -> None:
        """Agree on how the parameters lie before the first step, where the structure of the state depends on it."""
        if self.line.carries and self._sharding is None:
            found = of_optimizers(self.optimizers, self.model)
            if are_sharded(found.tensors):
                self.gradients_of(found, self.need_clip)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.detach()

    def _before_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The hook. A closure makes the gradients inside the step, so it is wrapped: run it, then clip."""
        begun(optimizer)
        if self._on_update:
            if not is_nested(optimizer):
                self._before = values_before(optimizer, self.model, self.need_clip)
            return None
        if not self._update_steps[id(optimizer)].is_this(optimizer):
            return None
        found = with_closure(args, kwargs, lambda closure: self._clipping(optimizer, closure))
        if found is None:
            self._clip_for(optimizer)
        return found

    def _clipping(self, optimizer: Optimizer, closure: Callable[..., Any]) -> Callable[..., Any]:
        """The closure of a step, and after each evaluation a clip of what it has made."""
        evaluations = 0

        def closure_then_clip(*args: Any, **kwargs: Any) -> Any:
            nonlocal evaluations
            loss = closure(*args, **kwargs)
            evaluations += 1
            self._clip_for(optimizer, loss, again=evaluations > 1)
            return loss

        return closure_then_clip

    def _clip_for(self, optimizer: Optimizer, loss: object = None, again: bool = False) -> None:
        """Clip for the step of `optimizer`; `loss` is what its closure returned, `again` in the same step."""
        self._step_attributes.restore()
        if self._was_clipped(optimizer):
            return
        if loss is not None:
            self.give_returned(loss)
        served = self.optimizers
        left_out = self._left_out_beside(optimizer) if len(served) > 1 else []
        if self._spans and torch._C._current_graph_task_id() != -1:
            raise RuntimeError(f"{STEP_IN_BACKWARD} ({self.rule!r})")
        divisor, overflow = getattr(optimizer, "grad_scale", None), getattr(optimizer, "found_inf", None)
        waiting = [other for other in served if unchanged(other, self._clipped)] if self._clipped else []
        needs = self._needs_without([*left_out, *waiting]) if left_out or waiting else self.need_clip
        gradients = self.gradients_of(of_optimizers(served, self.model), needs)
        if self.reads_moments:
            gradients = gradients._replace(moments=partial(self._moments, gradients))
        if not self.takes_part(gradients):
            self._report_no_gradients()
            self.taken_given()
            return
        engine = self.engine_for(gradients)
        reads = not engine.waits or self.can_raise
        if overflow is not None and reads and float(overflow) > 0:
            self.taken_given()
            self.left_out(optimizer)
            return  # GradScaler found the overflow and skips this step itself
        if overflow is not None and engine.waits:
            gradients = gradients._replace(overflow=overflow)
        if divisor is not None:
            gradients = gradients._replace(divisor=divisor if engine.waits else float(divisor))
        found = gradients.tensors if self._sharding is None else self._sharding.gradients
        if self._through and len(found) != len(states_of(optimizer)):
            raise ValueError("through_grad_scale scales every gradient of the optimizer, and need_clip leaves some out")
        self.hear_rate(served)
        if self._given:
            gradients = self.with_given(gradients, engine)
        result = self.clip_gradients(gradients, engine)
        if self.can_skip:
            self._skip(result, engine, optimizer)
        if len(served) > 1:
            self._clipped = self._states_beside(optimizer, *left_out)
        if not again:  # near its minimum LBFGS evaluates hardly different places
            self._pinned.watch(result, engine)

    def _terms(self) -> str:
        return f"{super()._terms()} and place={self.options.place!r}"

    def _moments(self, gradients: Gradients) -> list[Gradient]:
        """The second moments that the optimizers have of the gradients, as far as they are here."""
        if self._sharding is None:
            weights = gradients.weights or list
            return list(second_moments(self.optimizers, weights()))
        return self._sharding.here_of(second_moments(self.optimizers, self._sharding.parameters))

    def listens_to(self, optimizer: Optimizer) -> bool:
        """Whether `optimizer` is one of these."""
        return any(served is optimizer for served in self.optimizers)

    def left_out(self, optimizer: Optimizer) -> None:
        """Hear that GradScaler did not call `optimizer`, because a gradient of it is not finite."""
        again = unchanged(optimizer, self._left_out_states) or self._was_clipped(optimizer)
        gradients = self.gradients_of(of_optimizers(self.optimizers, self.model), self.need_clip)
        if self.takes_part(gradients) and not again:
            self.tell_left_out(gradients, self.engine_for(gradients))
            self._left_out_states = self._states_beside(optimizer)

    def _was_clipped(self, optimizer: Optimizer) -> bool:
        """Whether the gradients of this optimizer are just those that were clipped when another one stepped."""
        return bool(self._clipped) and unchanged(optimizer, self._clipped)

    def _left_out_beside(self, optimizer: Optimizer) -> list[Optimizer]:
        """The others that a GradScaler leaves out, if no policy has an answer for what is not finite in them."""
        others = [other for other in self.optimizers if other is not optimizer]
        left_out = to_be_left_out(others, optimizer)
        return left_out if self.line.policy.warns else []

    def _needs_without(self, left_out: list[Optimizer]) -> NeedClip:
        """`need_clip` that leaves out what a GradScaler leaves out, and what was clipped and waits for its step."""
        theirs = {id(p) for other in left_out for group in other.param_groups for p in group["params"]}
        return lambda p: id(p) not in theirs and (self.need_clip is None or self.need_clip(p))

    def _states_beside(self, *stepped: Optimizer) -> dict[int, States]:
        """The gradients of the optimizers that have not stepped yet, nor been left out, as they are now."""
        others = [other for other in self.optimizers if not any(other is one for one in stepped)]
        return {id(other): states_of(other) for other in others}

    def _skip(self, result: Result, engine: Engine, optimizer: Optimizer) -> None:
        """Skip the step if the result says so: on the device where the optimizer can, else by taking gradients away."""
        alone = len(self.optimizers) == 1 and getattr(optimizer, "_step_supports_amp_scaling", False)
        if engine.waits and alone:
            flags = [flag.reshape(()).to(torch.float32) for flag in result.skip_flags()]
            self._step_attributes.set(optimizer, "found_inf", torch.stack(flags).amax())
        elif result.skipped:
            drop([p for other in self.optimizers for group in other.param_groups for p in group["params"]])

    def write(self, part: Part, batch: Batch, engine: Engine) -> None:
        """Write the gradients, or hand the coefficient to the fused optimizer, which divides by `grad_scale`."""
        if not self._through:
            super().write(part, batch, engine)
            return
        (optimizer,) = self.optimizers
        scale = torch.as_tensor(part.divisor / part.plan.coefficient, dtype=torch.float32).reshape(())
        if not engine.waits and not can_divide_by(float(scale), optimizer):
            super().write(part, batch, engine)
        elif engine.waits or float(part.plan.coefficient) != 1.0:
            self._step_attributes.set(optimizer, "grad_scale", scale)

    def _after_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._step_attributes.restore()
        if self._before is not None:
            before, self._before = self._before, None
            clip_update(self, before)

    def _report_no_gradients(self) -> None:
        if not self._reported:
            self._reported = True
            report_nothing("the optimizer stepped and no parameter that needs clipping had a gradient (said once)")


def can_divide_by(scale: float, optimizer: Optimizer) -> bool:
    """Whether the optimizer can divide by `scale`: it is finite, and no memory would be divided twice."""
    places = [gradient.data_ptr() for gradient, _ in states_of(optimizer) if gradient.numel()]
    return math.isfinite(scale) and len(set(places)) == len(places)


def clipper_of(optimizer: Optimizer) -> AttachedClipper | None:
    """The clipper that is attached to `optimizer`."""
    known = _attached.get(optimizer)
    clipper = None if known is None else known()
    return clipper if clipper is not None and clipper.attached else None
