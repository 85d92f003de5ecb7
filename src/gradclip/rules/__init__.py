"""What to clip and how hard: frozen data, standard library only."""

from gradclip.rules.codec import from_dict
from gradclip.rules.combine import Given, StepLength, WeightRatio, max_of, min_of, until
from gradclip.rules.estimators import EMA, EMASpread, Estimator, Moments, QuantileTracker, Window
from gradclip.rules.history import History
from gradclip.rules.levels import Level, MeanOverRMS, Quantile, Ratio, Sigma, ZReciprocal
from gradclip.rules.norm import L1, L2, RMS, Linf, Lp, Norm, norm_of_order
from gradclip.rules.response import Normalize, Raise, Rescale, Response, SkipStep, Smooth, Zero
from gradclip.rules.rule import AnyRule, Carry, Chain, Rule, Rules
from gradclip.rules.scope import Element, Global, Group, Row, Scope, Tensor
from gradclip.rules.threshold import Bounds, Constant, Schedule, SecondMoment, Threshold

__all__ = [
    "EMA",
    "L1",
    "L2",
    "RMS",
    "AnyRule",
    "Bounds",
    "Carry",
    "Chain",
    "Constant",
    "EMASpread",
    "Element",
    "Estimator",
    "Given",
    "Global",
    "Group",
    "History",
    "Level",
    "Linf",
    "Lp",
    "MeanOverRMS",
    "Moments",
    "Norm",
    "Normalize",
    "Quantile",
    "QuantileTracker",
    "Raise",
    "Ratio",
    "Rescale",
    "Response",
    "Row",
    "Rule",
    "Rules",
    "Schedule",
    "Scope",
    "SecondMoment",
    "Sigma",
    "SkipStep",
    "Smooth",
    "StepLength",
    "Tensor",
    "Threshold",
    "WeightRatio",
    "Window",
    "ZReciprocal",
    "Zero",
    "from_dict",
    "max_of",
    "min_of",
    "norm_of_order",
    "until",
]
