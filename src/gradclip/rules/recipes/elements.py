"""Methods that act on single elements with a memory of their own, or beside the rule that clips."""

from __future__ import annotations

from gradclip.rules.norm import Linf
from gradclip.rules.response import Rescale
from gradclip.rules.rule import Carry, Chain, Rule, Rules
from gradclip.rules.scope import Element
from gradclip.rules.threshold import SecondMoment

__all__ = ["SPAM", "UClip"]


def SPAM(factor: float = 5000.0, warmup: int = 20) -> Rule:
    """Clip each element to a multiple of the root of its second moment in the optimizer.

    Formula: `out = sign(g) min(|g|, sqrt(factor v))` for each element, with v the second moment that Adam has of it
    from the steps before. Not in the first `warmup` steps, and not where v is 0. Norms and thresholds in results have
    the unit of `sqrt(factor v)`.
    Source: T. Huang et al. 2025, arXiv:2501.06842 (spike-aware clipping); defaults of its code
    (TianjinYellow/SPAM-Optimizer).
    Differs from the original: (1) the moments are not reset and the learning rate is not warmed up again: call the
    optimizer's own means for it; (2) an element whose v is 0 is not clipped: there, its gradient becomes 0, so v stays
    0 and a row of an embedding that is first used after the warm-up is frozen for ever; (3) any optimizer that keeps
    the second moment.

    >>> SPAM()
    each element: a magnitude above the root of 5000 times its second moment (after 20 steps) is rescaled to it
    """
    return Rule(Element(), Linf(), SecondMoment(factor, warmup), Rescale())


def UClip(rule: Rule | Chain | Rules) -> Carry:
    """Clip by any rule, and add what it takes away to the gradients of the next step: no gradient is lost.

    Formula: `u = clip(g + carried)`, then `carried <- g + carried - u`, so that the sum of u over the steps is the sum
    of g less what is still carried. What is carried is one tensor for each gradient, in float32 or wider and in the
    unit of the gradient; the thresholds of `rule` see `g + carried`. A step with a non-finite element is clipped
    without it, and it waits, as it does where a step is skipped. `rule` is whole: UClip is no part of a chain.
    Source: B. Elesedy, M. Hutter 2023, arXiv:2302.02971, algorithm 1.
    Differs from the original: (1) any rule clips, there it is the value of each element or the norm of all; (2) a
    non-finite gradient is never carried: there, one NaN stays for ever.
    Mind: what is carried may grow large where the threshold lies far below the gradients, and is paid out long after.

    >>> UClip(ClipGradByValue(1.0))
    each element: a magnitude above 1 is rescaled to it; what is taken away is carried to the next step
    """
    return Carry(rule)
