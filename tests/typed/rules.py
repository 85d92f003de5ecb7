"""What a type checker says of `gradclip` itself: every public name, as a user writes it."""

from typing import assert_type

import torch

import gradclip
from gradclip import AnyRule, Chain, Rule, Rules

# The methods.
assert_type(gradclip.ClipGradByGlobalNorm(1.0), Rule)
assert_type(gradclip.ClipGradByNorm(gradclip.Schedule((0, 10.0), (1000, 1.0)), norm_type=1), Rule)
assert_type(gradclip.ClipGradByValue(max=1.0, min=-0.5), Rule)
assert_type(gradclip.AGC(0.02, exclude=["head.*"], axis=(0, 1)), Rule | Rules)
assert_type(gradclip.AdaGC(warmup=10, max_norm=None), Chain)
assert_type(gradclip.SkipSpikes(sigmas=4.0, loss=True), Rule | Chain)
assert_type(gradclip.StableSPAM(), Chain)
assert_type(gradclip.UClip(gradclip.ZClip(feed="raw", readmit=None)), gradclip.Carry)
METHODS: list[AnyRule] = [
    gradclip.AutoClip(percentile=10, window=100),
    gradclip.BlockRMS(),
    gradclip.EMARatio(2.0, beta=0.9),
    gradclip.LARC(lr=0.1),
    gradclip.NormGrowth(1.01),
    gradclip.NormalizedGradient(norm=1.0, each_tensor=True),
    gradclip.PercentileClip(95),
    gradclip.QuantileClip(quantile=0.5),
    gradclip.SPAM(warmup=5),
    gradclip.SmoothClip(kind="tanh"),
]

# The parts of a rule, and rules of rules.
SCOPES: list[gradclip.Scope] = [
    gradclip.Element(),
    gradclip.Row(axis=(1, 2)),
    gradclip.Tensor(),
    gradclip.Group(),
    gradclip.Global(),
]
NORMS: list[gradclip.Norm] = [gradclip.L1(), gradclip.L2(), gradclip.Linf(), gradclip.Lp(3), gradclip.RMS()]
NORMS.append(assert_type(gradclip.norm_of_order(2), gradclip.Norm))
RESPONSES: list[gradclip.Response] = [
    gradclip.Rescale(),
    gradclip.Smooth("sqrt"),
    gradclip.Normalize(epsilon=1e-6),
    gradclip.Zero(),
    gradclip.SkipStep(),
    gradclip.Raise(),
]
ESTIMATORS: list[gradclip.Estimator] = [
    gradclip.EMA(0.9, start="debiased"),
    gradclip.EMASpread(0.99),
    gradclip.Moments(0.9, 0.99),
    gradclip.QuantileTracker(q=0.5),
    gradclip.Window(100),
]
LEVELS: list[gradclip.Level] = [
    gradclip.Ratio(2.0),
    gradclip.Sigma(3.0),
    gradclip.ZReciprocal(2.5),
    gradclip.Quantile(0.9),
    gradclip.MeanOverRMS(),
]
LEARNT = gradclip.History(gradclip.EMASpread(0.99), gradclip.Sigma(3.0), feed="limit", warmup=50, readmit=50)
THRESHOLDS: list[gradclip.Threshold] = [
    gradclip.Constant(1.0),
    gradclip.Bounds(1.0, -1.0),
    gradclip.Schedule(lambda step: 1.0 + step),
    gradclip.SecondMoment(factor=5000),
    gradclip.WeightRatio(0.01, floor=1e-3),
    gradclip.Given(LEARNT, "loss"),
    gradclip.StepLength(1.0),
    gradclip.min_of(1.0, LEARNT),
    gradclip.max_of(0.1, LEARNT),
    gradclip.until(100, 10.0, LEARNT),
]
MINE = gradclip.Rule(gradclip.Tensor(), norm=gradclip.RMS(), threshold=LEARNT, response=gradclip.Zero())
assert_type(MINE >> gradclip.ClipGradByNorm(1.0), Chain)
BY_NAME = gradclip.Rules({"*.bias": None, "embed.*": gradclip.ClipGradByNorm(0.1), "*": MINE})
assert_type(gradclip.Chain((MINE, MINE)), Chain)
assert_type(gradclip.from_dict(BY_NAME.to_dict()), AnyRule)


def said(error: Exception) -> str:
    """The errors, as `except` meets them."""
    if isinstance(error, gradclip.NonFiniteGradient):
        return assert_type(error.parameters, tuple[str, ...])[0]
    kinds = (gradclip.GradientAboveThreshold, gradclip.TooManySkips, gradclip.NothingClipped, gradclip.GradclipWarning)
    return str(error) if isinstance(error, kinds) else ""


# What `import gradclip` has of PyTorch without importing it.
model = torch.nn.Linear(2, 1)
clipper = gradclip.attach(torch.optim.SGD(model.parameters(), lr=0.1), MINE, model=model)
model(torch.ones(1, 2)).sum().backward()
assert_type(gradclip.verify_norm(model).right, bool)
gradclip.metric(0.93, "accuracy")
