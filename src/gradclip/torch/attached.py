"""`attach`, and which clipper serves which optimizer: attaching twice is attaching once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol, TypeAlias, TypedDict, Unpack, overload

import torch
from torch.optim import Optimizer

from gradclip.errors import shown
from gradclip.rules.arguments import checked_flag, checked_word
from gradclip.rules.rule import AnyRule, checked_rule
from gradclip.step.policy import PolicyName
from gradclip.telemetry import Telemetry
from gradclip.torch.hook import AttachedClipper, Options, clipper_of
from gradclip.torch.optimizers import unwrapped
from gradclip.torch.parameters import NeedClip
from gradclip.torch.update import PLACES


class Wrapper(Protocol):
    """What an optimizer may be wrapped in, such as Lightning's."""

    @property
    def optimizer(self) -> Any: ...


AnyOptimizer: TypeAlias = Optimizer | Wrapper


class OfTheClip(TypedDict, total=False):
    """What says how is clipped, beside the rule: see `attach`."""

    on_nonfinite: PolicyName
    max_consecutive_skips: int | None
    need_clip: NeedClip | None
    engine: Literal["cpu", "torch", "triton"] | None
    through_grad_scale: bool
    place: Literal["gradient", "update"]
    groups: Mapping[str, torch.distributed.ProcessGroup] | None
    pipeline: torch.distributed.ProcessGroup | None


class Keywords(OfTheClip, total=False):
    """What `attach` takes by name beside the rule."""

    model: torch.nn.Module | None
    telemetry: Telemetry | None


@overload
def attach(optimizer: AnyOptimizer, rule: AnyRule, /, **options: Unpack[Keywords]) -> AttachedClipper: ...
@overload
def attach(*optimizers: AnyOptimizer, rule: AnyRule, **options: Unpack[Keywords]) -> AttachedClipper: ...
def attach(
    *optimizers: Any,
    rule: AnyRule | None = None,
    model: torch.nn.Module | None = None,
    on_nonfinite: str = "keep",
    max_consecutive_skips: int | None = None,
    need_clip: NeedClip | None = None,
    engine: str | None = None,
    through_grad_scale: bool = False,
    place: str = "gradient",
    telemetry: Telemetry | None = None,
    groups: Mapping[str, torch.distributed.ProcessGroup] | None = None,
    pipeline: torch.distributed.ProcessGroup | None = None,
) -> AttachedClipper:
    """Clip the gradients of an optimizer by `rule` in each of its steps, before it updates the parameters.

    `attach(optimizer, rule)`; or `attach(a, b, rule=rule)` for several optimizers under one norm. `model` gives the
    parameters their names. Whichever steps first clips the gradients of all, and those that wait for their own
    optimizer are left as they are until they change. A group with `need_clip: False`, a parameter with the attribute
    `need_clip=False` and one that the function `need_clip` refuses are neither measured nor scaled.
    `through_grad_scale` hands the coefficient of a global rule to a fused optimizer instead of writing the gradients a
    second time. `place="update"` applies the rule to what the step has moved, `p - p_old`, instead of to the gradients;
    it keeps a copy of the parameters during the step, and takes one optimizer and no rule that skips or raises.

    `telemetry` hears of every step: `gradclip.telemetry.Telemetry`. Gradients that are DTensors are clipped by the norm
    of the whole tensors; `groups` and `pipeline` say what only other processes have: `gradclip.torch.Clipper`.

    A rule that reads the loss is told it by `clipper.give(loss=loss)` before each step, if no closure returns it.

    Works with closures, GradScaler, accumulation, schedulers, `torch.compile` and wrapped optimizers. A closure that is
    evaluated several times (LBFGS) is clipped each time, and each is a step of the clipper. `copy.deepcopy` and
    `pickle` of an optimizer alone drop its hooks: attach to the copy again; together with the clipper they keep them,
    without telemetry. Attaching twice is attaching once. The clipper is a context manager; leaving it, or `detach()`,
    takes the hooks away. It keeps no optimizer alive: one that you have no more is freed, as without a clipper.

    >>> model = torch.nn.Linear(2, 1)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> clipper = attach(optimizer, ClipGradByGlobalNorm(1.0), model=model)
    >>> model(torch.full((8, 2), 100.0)).square().sum().backward()
    >>> optimizer.step()
    >>> clipper.last.clipped, round(clipper.last.norm_after, 6)
    (True, 1.0)
    """
    given = list(optimizers)
    if rule is None and len(given) > 1:
        rule = given.pop()
    if rule is None or not given:
        raise TypeError(
            "attach needs an optimizer and a rule: attach(optimizer, ClipGradByGlobalNorm(1.0)); no rule is right for "
            "all trainings, and docs/which-rule.md says which one to begin with"
        )
    rule = checked_rule(rule)
    inner = list(dict.fromkeys(map(unwrapped, given)))
    if model is not None and not isinstance(model, torch.nn.Module):
        raise TypeError(f"model is the torch.nn.Module whose parameters have names, got {shown(model)}")
    checked_word(place, "place", PLACES)
    through = checked_flag(through_grad_scale, "through_grad_scale")
    options = Options(
        on_nonfinite, max_consecutive_skips, need_clip, engine, through, place, telemetry, groups, pipeline
    )
    clipper = already_attached(inner, rule, options)
    if clipper is not None:
        clipper.model = model or clipper.model
        return clipper
    return AttachedClipper(inner, rule, model, options)


def already_attached(optimizers: list[Optimizer], rule: AnyRule, options: Options) -> AttachedClipper | None:
    """The clipper that serves just these optimizers with just this rule; another one on any of them is refused."""
    for optimizer in optimizers:
        clipper = clipper_of(optimizer)
        if clipper is None:
            continue
        if clipper.optimizers == optimizers and clipper.rule == rule and clipper.options == options:
            return clipper
        raise ValueError(
            f"a clipper is attached to this {type(optimizer).__name__} already ({clipper.rule!r}): "
            "call its detach() first, or give both optimizers to one attach"
        )
    return None
