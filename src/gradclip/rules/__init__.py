"""What to clip and how hard: frozen data, standard library only."""

from gradclip.rules.codec import from_dict
from gradclip.rules.norm import L1, L2, RMS, Linf, Lp, Norm, norm_of_order
from gradclip.rules.recipes import ClipGradByGlobalNorm, ClipGradByNorm, ClipGradByValue
from gradclip.rules.response import Normalize, Raise, Rescale, Response, SkipStep, Smooth, Zero
from gradclip.rules.rule import AnyRule, Chain, Rule, Rules
from gradclip.rules.scope import Element, Global, Group, Row, Scope, Tensor
from gradclip.rules.threshold import Bounds, Constant, Schedule, Threshold

__all__ = [
    "L1",
    "L2",
    "RMS",
    "AnyRule",
    "Bounds",
    "Chain",
    "ClipGradByGlobalNorm",
    "ClipGradByNorm",
    "ClipGradByValue",
    "Constant",
    "Element",
    "Global",
    "Group",
    "Linf",
    "Lp",
    "Norm",
    "Normalize",
    "Raise",
    "Rescale",
    "Response",
    "Row",
    "Rule",
    "Rules",
    "Schedule",
    "Scope",
    "SkipStep",
    "Smooth",
    "Tensor",
    "Threshold",
    "Zero",
    "from_dict",
    "norm_of_order",
]
