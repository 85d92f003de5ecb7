"""What rules read beside the gradients: numbers such as the loss, and the second moments of an optimizer."""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Real
from typing import Any

from gradclip.step.gradients import Gradients

NO_MOMENTS = (
    "this rule reads the second moments of an optimizer like Adam, and there are none: attach(optimizer, rule) in "
    "PyTorch, grad_clip= of the optimizer in Paddle (dynamic mode), update(..., moments=...) in JAX"
)


def is_one(number: Any) -> bool:
    """Whether this is a number, or a tensor of one element."""
    return isinstance(number, Real) or (hasattr(number, "shape") and math.prod(number.shape) == 1)


def refuse_many(name: str, number: Any) -> None:
    """Raise for what is not one number."""
    if not isinstance(number, Real) and not hasattr(number, "shape"):
        raise TypeError(f"the {name} is a number or a tensor of one element, got {number!r}")
    if not is_one(number):
        shape = tuple(number.shape)
        raise ValueError(f"the {name} is one number, got a tensor of shape {shape}: give its mean")


def refuse_missing(rule: Any, names: Iterable[str], moments: bool, gradients: Gradients, step: Any) -> None:
    """Raise where a rule reads numbers of these `names`, or second `moments`, and they were not handed over."""
    if moments:
        if gradients.moments is None:
            raise ValueError(f"{rule!r}: {NO_MOMENTS}")
        gradients.moments()  # an optimizer that has none says so
    for name in names:
        if name in gradients.given:
            continue
        when = f" at step {step}" if isinstance(step, int) else ""
        raise ValueError(
            f"the rule reads the {name}, which was not given{when}: call clipper.give({name}=...) before each "
            f"optimizer.step(), in JAX update(..., {name}=...)"
        )
