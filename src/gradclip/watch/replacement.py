"""A rule in the place of what a script clips by: every optimizer gets it, and what clips otherwise only measures."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any

from torch.optim import Optimizer, optimizer

from gradclip.rules.recipes import ClipGradByGlobalNorm
from gradclip.rules.rule import AnyRule
from gradclip.step.result import Result
from gradclip.torch import Clipper, attach
from gradclip.torch.eager import eager
from gradclip.torch.functional import get_total_norm
from gradclip.torch.hook import clipper_of
from gradclip.torch.optimizers import parameter_ids


def replace_clipping(rule: AnyRule) -> None:
    """Let every optimizer clip by `rule`, each by itself, from its first step on, also in the place of a clipper.

    The script may read `last` of its own clipper all the same.
    """
    given_up: weakref.WeakKeyDictionary[Optimizer, Clipper] = weakref.WeakKeyDictionary()
    attached: weakref.WeakSet[Clipper] = weakref.WeakSet()
    at_work: list[Optimizer] = []

    def before_step(stepping: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if stepping in at_work:
            del at_work[at_work.index(stepping) :]  # a step that raised never ended
        served = any(clipper_of(outer) is not None and is_part_of(stepping, outer) for outer in at_work)
        at_work.append(stepping)
        if served:
            return
        clipper = clipper_of(stepping)
        if clipper is not None and clipper not in attached:
            clipper.detach()
            given_up[stepping] = clipper
        attached.add(attach(stepping, rule))

    def after_step(stepping: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        del at_work[at_work.index(stepping) :]
        clipper, attached_clipper = given_up.get(stepping), clipper_of(stepping)
        if clipper is not None and attached_clipper is not None:
            clipper._last = attached_clipper._last

    optimizer.register_optimizer_step_pre_hook(eager(before_step))
    optimizer.register_optimizer_step_post_hook(eager(after_step))


def is_part_of(inner: Optimizer, outer: Optimizer) -> bool:
    """Whether the parameters of an optimizer are some of another's, whose step calls its step."""
    return inner is not outer and parameter_ids(inner) <= parameter_ids(outer)


def measured(name: str, known: Mapping[str, Any]) -> Any:
    """What the clipping function `name` returns for these arguments; nothing is clipped."""
    if name != "clip_grad_norm_":
        return None
    gradients = [parameter.grad for parameter in known["parameters"] if parameter.grad is not None]
    return get_total_norm(gradients, known.get("norm_type", 2.0), known.get("error_if_nonfinite", False))


def measured_by(clip_: Callable[[Clipper, Any], Result], clipper: Clipper, parameters: Any) -> Result:
    """What `clipper.clip_(parameters)` returns if it clips nothing."""
    clipper._last = clip_(Clipper(ClipGradByGlobalNorm(None)), parameters)
    return clipper.last
