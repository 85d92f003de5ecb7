"""Methods whose threshold follows the norms of earlier steps."""

from __future__ import annotations

from typing import Literal

from gradclip.errors import shown
from gradclip.rules.arguments import checked_flag, checked_word, real_number
from gradclip.rules.combine import Given, min_of, until
from gradclip.rules.estimators import EMA, EMASpread, Moments, QuantileTracker, Window
from gradclip.rules.history import FEEDS, History
from gradclip.rules.levels import MeanOverRMS, Quantile, Ratio, Sigma, ZReciprocal
from gradclip.rules.norm import L2, Linf
from gradclip.rules.response import Normalize, Rescale, SkipStep
from gradclip.rules.rule import Chain, Rule
from gradclip.rules.scope import Element, Global, Tensor
from gradclip.rules.threshold import Constant

__all__ = [
    "AdaGC",
    "AutoClip",
    "EMARatio",
    "NormGrowth",
    "PercentileClip",
    "QuantileClip",
    "SkipSpikes",
    "StableSPAM",
    "ZClip",
]

Feed = Literal["raw", "limit", "clipped", "accepted"]


def AutoClip(percentile: float = 10.0, window: int = 1000) -> Rule:
    """Rescale the whole gradient to a percentile of the norms so far.

    Formula: `t = percentile of {n_1 .. n_t}`, `out = g * min(1, t / n_t)` with n the global L2 norm; this step's norm
    counts. With the default of 10 about 90 % of the steps are clipped, which makes it a normalisation more than a
    guard.
    Source: P. Seetharaman, G. Wichern, B. Pardo, J. Le Roux 2020, arXiv:2007.14469 (AutoClip; the default of 10 is
    theirs).
    Differs from the original: (1) the history is the last `window` norms and not all, so memory is bounded and the
    norms of the beginning stop voting; (2) a non-finite norm is never learnt: in the original one NaN makes every later
    gradient NaN.

    >>> AutoClip(10)
    all tensors together: an L2 norm above the 10 % quantile of the last 1000 norms (this one included) is rescaled \
to it
    """
    return Rule(Global(), L2(), History(Window(window), _percentile(percentile), current=True), Rescale())


def ZClip(
    z: float = 2.5,
    alpha: float = 0.97,
    warmup: int = 25,
    max_norm: float | None = 1.0,
    feed: Feed = "limit",
    readmit: int | None = 25,
) -> Rule:
    """Rescale the whole gradient when its norm is an outlier among the norms so far, and always to `max_norm`.

    Formula: with mu and sigma the moving mean and deviation of the global L2 norm n and `s = (n - mu) / sigma`: `t = mu
    + z sigma (z / s)` where s > z, else none; `out = g * min(1, min(t, max_norm) / n)`. The first `warmup` norms make
    mu and sigma. `max_norm=None` leaves only the outliers: a filter for spikes, not a guard against divergence.
    Source: A. Kumar, L. Owen, N. R. Chowdhury, F. Gura 2025, arXiv:2504.02507, equations 3 to 6; defaults of its code
    (bluorion-com/ZClip).
    Differs from the original: (1) after `readmit` outliers in a row the raw norm is learnt, so a lasting change of
    level is taken up: the original clips it for ever (readmit=None; feed="raw" takes it up at once and lets bursts
    through); (2) a non-finite norm is never learnt: there, one NaN switches the method off for ever; (3) sigma is the
    exact moving deviation, there it is smaller by sqrt(alpha); (4) no epsilon, so the units of the loss do not matter.

    >>> ZClip(max_norm=None)
    all tensors together: an L2 norm above the mean + 2.5 standard deviations, falling to the mean, of an EMA of 0.97 \
(after 25, learning the limit for an outlier, its norm after 25 in a row) is rescaled to it
    """
    checked_word(feed, "feed", FEEDS)
    history = History(EMASpread(alpha), ZReciprocal(z), feed, warmup, None if feed == "raw" else readmit)
    return Rule(Global(), L2(), history if max_norm is None else min_of(max_norm, history), Rescale())


def AdaGC(ratio: float = 1.05, beta: float = 0.98, warmup: int = 100, max_norm: float | None = 1.0) -> Chain:
    """Rescale each tensor to a multiple of the moving average of its clipped norms.

    Formula: `gamma <- beta gamma + (1 - beta) ||out||`, `out = g * min(1, ratio * gamma / ||g||)` for each tensor. In
    the first `warmup` steps the whole gradient is clipped to `max_norm` instead, and gamma is the smallest norm seen.
    Source: G. Wang et al. 2025, arXiv:2502.11034; the defaults are those of the paper.
    Differs from the original: (1) the warm-up of a tensor counts the steps in which its gradient was not zero: there,
    an expert that no token reached stays frozen; (2) a non-finite norm is never learnt: there, one NaN ends the
    clipping of its tensor for ever.
    Mind: gamma averages clipped norms, so noise shrinks it. On norms with a coefficient of variation of 0.7 it keeps 44
    % of the mean norm in the long run, and less while it rises from the smallest norm of the warm-up: in noisy training
    it is a lower learning rate in disguise.

    >>> AdaGC().stages[1]
    each tensor: an L2 norm above 1.05 times the mean of an EMA of 0.98 from the smallest norm (after 100, \
learning clipped norms) is rescaled to it
    """
    history = History(EMA(beta, "least"), Ratio(ratio), "clipped", warmup)
    return Rule(Global(), L2(), until(warmup, max_norm, None)) >> Rule(Tensor(), L2(), history)


def EMARatio(ratio: float = 2.0, beta: float = 0.99) -> Rule:
    """Rescale each tensor to a multiple of the moving average of its clipped norms.

    Formula: `s <- beta s + (1 - beta) ||out||`, `out = g * min(1, ratio * s / ||g||)` for each tensor; s begins as the
    first norm.
    Source: OLMo training code, 2023 (allenai/OLMo, `max_grad_norm_ratio`), where beta is the larger of Adam's betas.
    Differs from the original: (1) no epsilon; (2) a non-finite norm is never learnt.

    >>> EMARatio(2.0)
    each tensor: an L2 norm above 2 times the mean of an EMA of 0.99 (learning clipped norms) is rescaled to it
    """
    return Rule(Tensor(), L2(), History(EMA(beta), Ratio(ratio), "clipped"), Rescale())


def SkipSpikes(
    sigmas: float = 6.0, window: int = 128, warmup: int = 64, max_norm: float | None = 1.0, loss: bool = False
) -> Rule | Chain:
    """Skip the step when the norm, or the loss, lies far above those of the last steps; else clip to `max_norm`.

    Formula: the optimizer does not step where `n > mean + sigmas * std` of the last `window` global L2 norms n (std
    unbiased), once `warmup` are known; with `loss=True` also where the loss that the caller gives lies so far above the
    last losses. All norms are learnt, those of skipped steps too. Then `out = g * min(1, max_norm / n)`.
    Source: OLMo-core training code, 2025 (allenai/OLMo-core, SkipStepOptimizer), used for OLMo 2 32B.
    Differs from the original: (1) a non-finite norm or loss is never learnt: there, one NaN skips that step and the
    next 128; (2) a non-finite gradient is answered by `on_nonfinite`, not by this rule.

    >>> SkipSpikes(max_norm=None)
    all tensors together: an L2 norm above the mean + 6 standard deviations of the last 128 norms (after 64) is \
answered by skipping the step
    """
    history = History(Window(window), Sigma(sigmas), warmup=warmup)
    either = min_of(history, Given(history)) if checked_flag(loss, "loss") else history
    skip = Rule(Global(), L2(), either, SkipStep())
    return skip if max_norm is None else skip >> Rule(Global(), L2(), Constant(max_norm))


def PercentileClip(percentile: float = 95.0, window: int = 100) -> Rule:
    """Rescale each tensor to a percentile of its last norms.

    Formula: `t = percentile of the last window norms ||g||`, this step's included, `out = g * min(1, t / ||g||)` for
    each tensor.
    Source: T. Dettmers 2021, bitsandbytes (percentile clipping, until version 0.49); its example has a percentile of 5.
    Differs from the original: (1) places of the ring that are still empty do not count: there they are zeros, and a
    percentile of 5 multiplies the gradient by 0 for some 95 steps; (2) the quantile is interpolated, there it is a
    sorted entry; (3) a default of 95, because a percentile below 50 clips most steps and is a lower learning rate in
    disguise; (4) any dtype and device.

    >>> PercentileClip(95)
    each tensor: an L2 norm above the 95 % quantile of the last 100 norms (this one included) is rescaled to it
    """
    return Rule(Tensor(), L2(), History(Window(window), _percentile(percentile), current=True), Rescale())


def NormGrowth(growth: float = 1.01) -> Rule:
    """Let the norm of each tensor grow by at most a factor from step to step: the norm-growth limiter.

    Formula: `out = g * min(1, growth * n' / ||g||)` for each tensor, with n' the norm that it left in the step before.
    Source: X. Chen et al. 2024, arXiv:2410.01623 (Fira); also in APOLLO, arXiv:2412.05270.
    Differs from the original: (1) there it stands on the scaled update of a low-rank optimizer: place it on the update
    for that; (2) a zero or non-finite norm is never learnt: there, a zero would stop the tensor for ever.

    >>> NormGrowth(1.01)
    each tensor: an L2 norm above 1.01 times the last norm (learning clipped norms) is rescaled to it
    """
    return Rule(Tensor(), L2(), History(EMA(0.0), Ratio(growth), "clipped"), Rescale())


def QuantileClip(quantile: float = 0.5, rate: float = 0.2) -> Rule:
    """Rescale the whole gradient to a tracked quantile of its norms, and remember but that and a count.

    Formula: `out = g * min(1, C / n)` with n the global L2 norm, then `C <- C exp(-rate (b - quantile))` with b = 1
    where n <= C, else 0. C begins as the first norm.
    Source: G. Andrew, O. Thakkar, H. B. McMahan, S. Ramaswamy 2021, arXiv:1905.03871.
    Differs from the original: (1) there b is the share of the examples of a batch below C, with noise for privacy, here
    it is one norm a step; (2) a non-finite norm moves nothing.

    >>> QuantileClip(0.5)
    all tensors together: an L2 norm above the tracked quantile 0.5 (rate 0.2) is rescaled to it
    """
    return Rule(Global(), L2(), History(QuantileTracker(quantile, rate), Ratio(1.0)), Rescale())


def StableSPAM(theta: float = 0.999, gamma1: float = 0.7, gamma2: float = 0.9) -> Chain:
    """Clip the elements of each tensor to the usual largest one, then give the tensor its usual norm.

    Formula: for each tensor `T <- theta T + (1 - theta) max|g|`, debiased, and each element is clipped to [-T, T]; then
    `out = g / ||g|| * mu / nu` with mu the moving average of ||g|| (gamma1) and nu the root of that of its square
    (gamma2), both debiased, this step's norm included.
    Source: T. Huang et al. 2025, arXiv:2502.17055 (AdaClip and AdaGN of Stable-SPAM; defaults of its code).
    Differs from the original: (1) elements above T are clipped to it, there they are all multiplied by T / max|g|; (2)
    T is compared before it learns this step's largest element; (3) the moments of the optimizer are not reset: call its
    own means for it; (4) a non-finite element is never learnt: there, one NaN stays in T, mu and nu for ever.

    >>> StableSPAM().stages[1]
    each tensor: an L2 norm above the mean over the root mean square of EMAs of 0.7 of the norm and of 0.9 of its \
square (this one included) is normalised to it
    """
    elements = Rule(Element(), Linf(), History(EMA(theta, "debiased"), Ratio(1.0)), Rescale())
    return elements >> Rule(Tensor(), L2(), History(Moments(gamma1, gamma2), MeanOverRMS(), current=True), Normalize())


def _percentile(value: float) -> Quantile:
    """The level of a percentile in [0, 100]."""
    number = real_number(value)
    if number is None or not 0 <= number <= 100:
        raise ValueError(f"a percentile lies in [0, 100], got {shown(value)}: write 10 for one that 10 % lie below")
    return Quantile(number / 100.0)
