"""The adaptive methods as their authors wrote them, in the shortest form: to show what each does where ours differs.

Each is given the norm of a step and answers with the coefficient of the gradient (AdaGC also takes those of several
tensors).
"""

from __future__ import annotations

import numpy as np

TINY = 1e-6
"""What PyTorch and those who followed it add to a norm before they divide by it."""


def coefficient(limit, norm):
    """PyTorch's: min(1, limit / (norm + 1e-6)), which a NaN goes through."""
    return np.minimum(1.0, limit / (norm + TINY))


class AutoClip:
    """pseeth/autoclip: a percentile of all norms so far."""

    def __init__(self, percentile=10.0):
        self.percentile, self.norms = percentile, []

    def __call__(self, norm):
        self.norms.append(norm)
        return coefficient(np.percentile(self.norms, self.percentile), norm)


class ZClip:
    """bluorion-com/ZClip with `max_grad_norm=None` and the mode "adaptive_scaling", both of which its paper has."""

    def __init__(self, z=2.5, alpha=0.97, warmup=25):
        self.z, self.alpha, self.warmup = z, alpha, warmup
        self.buffer, self.mean, self.variance = [], None, None

    def __call__(self, norm):
        if self.mean is None:
            self.buffer.append(norm)
            if len(self.buffer) == self.warmup:
                self.mean, self.variance = np.mean(self.buffer), np.var(self.buffer)
            return np.float64(1.0)
        sigma = np.sqrt(self.variance)
        score = (norm - self.mean) / (sigma + TINY)
        spike = score > self.z
        fed = self.mean + self.z * sigma / (score / self.z) if spike else norm
        self.mean = self.alpha * self.mean + (1 - self.alpha) * fed
        self.variance = self.alpha * self.variance + (1 - self.alpha) * (fed - self.mean) ** 2
        return coefficient(fed, norm) if spike else np.float64(1.0)


class AdaGC:
    """Paddle's ClipGradByAdaptiveNorm: the warm-up takes the least of the norms before clipping."""

    def __init__(self, ratio=1.05, beta=0.98, warmup=100, max_norm=1.0):
        self.ratio, self.beta, self.warmup, self.max_norm = ratio, beta, warmup, max_norm
        self.step, self.gamma = 0, np.inf

    def __call__(self, norms):
        norms = np.asarray(norms, dtype=np.float64)
        self.step += 1
        if self.step <= self.warmup:
            self.gamma = np.minimum(self.gamma, norms)
            return np.broadcast_to(coefficient(self.max_norm, np.sqrt(np.sum(norms**2))), norms.shape)
        over = norms > self.ratio * self.gamma
        factors = np.where(over, self.ratio * self.gamma / np.where(over, norms, 1.0), 1.0)
        self.gamma = self.beta * self.gamma + (1 - self.beta) * factors * norms
        return factors


class SkipStep:
    """allenai/OLMo-core SkipStepOptimizer on norms: 0 where the step is skipped."""

    def __init__(self, sigmas=6.0, window=128):
        self.sigmas, self.window, self.norms = sigmas, window, []

    def __call__(self, norm):
        self.norms = [*self.norms[-self.window :], norm]
        past = self.norms[:-1]
        if len(past) < self.window // 2:
            return np.float64(1.0)
        return np.float64(norm - np.mean(past) <= self.sigmas * np.std(past, ddof=1))


class EMARatio:
    """allenai/OLMo `max_grad_norm_ratio`: the average is of clipped norms, and begins as the first norm."""

    def __init__(self, ratio=2.0, beta=0.99):
        self.ratio, self.beta, self.mean = ratio, beta, None

    def __call__(self, norm):
        self.mean = norm if self.mean is None else self.mean
        factor = coefficient(self.ratio * self.mean, norm)
        self.mean = self.beta * self.mean + (1 - self.beta) * factor * norm
        return factor


class PercentileClip:
    """bitsandbytes percentile clipping: a ring of 100 squared norms that begins as zeros, and its sorted entry."""

    def __init__(self, percentile=5):
        self.percentile, self.ring, self.step = percentile, np.zeros(100), 0

    def __call__(self, norm):
        self.ring[self.step % 100] = norm**2
        self.step += 1
        return np.minimum(1.0, np.sqrt(np.sort(self.ring)[self.percentile]) / norm)


def coefficients(original, norms):
    """What `original` multiplies the gradients of these norms by."""
    with np.errstate(invalid="ignore"):
        return np.array([original(norm) for norm in norms])


def clipped(original, norms):
    """What comes out of `original` for each of these norms."""
    with np.errstate(invalid="ignore"):
        return coefficients(original, norms) * norms
