"""Norms with a planted truth, and runs that recorded them."""

from __future__ import annotations

import math
import random

from gradclip.telemetry import Event

RULE = "all tensors together: an L2 norm above 1 is rescaled to it"


def run_of(norms, threshold=math.inf):
    """A run that recorded these norms, clipped at `threshold`."""
    return [_event(step, norm, threshold) for step, norm in enumerate(norms)]


def _event(step, norm, threshold):
    clipped = norm > threshold
    after = threshold if clipped else norm
    return Event(step, RULE, "cpu", norm, after, threshold, min(1.0, threshold / norm) if norm else 1.0, clipped)


def lognormal(steps, sigma=0.3, level=1.0, seed=0, correlation=0.0):
    """Log-normal norms with this median; the logarithms of neighbours have this correlation."""
    dice, state, fresh = random.Random(seed), 0.0, math.sqrt(1.0 - correlation**2)
    state = dice.gauss(0.0, 1.0)
    norms = []
    for _ in range(steps):
        norms.append(level * math.exp(sigma * state))
        state = correlation * state + fresh * dice.gauss(0.0, 1.0)
    return norms


def spiky(steps, share=0.01, seed=0):
    """Log-normal norms with spikes of 10 to 1000 ordinary norms, and the steps of the spikes."""
    norms, dice = lognormal(steps, 0.2, seed=seed), random.Random(seed + 1)
    places = set(dice.sample(range(steps), round(share * steps)))
    return [10.0 ** dice.uniform(1.0, 3.0) if step in places else norm for step, norm in enumerate(norms)], places


def drifting(steps, factor):
    """Log-normal norms whose level moves evenly to `factor`."""
    return [norm * factor ** (step / steps) for step, norm in enumerate(lognormal(steps))]


def warming_up(steps, until, start=20.0):
    """Log-normal norms around `start` at first, falling to a level of 1 that they have from `until` on."""
    return [norm * start ** max(0.0, 1.0 - step / until) for step, norm in enumerate(lognormal(steps))]


def two_levels(steps, share=0.2, seed=0):
    """Norms around 1, and around 10 in this share of the steps."""
    dice = random.Random(seed)
    return [norm * (10.0 if dice.random() < share else 1.0) for norm in lognormal(steps, 0.15, seed=seed)]


def runaway(calm, lost):
    """Norms around 1, a jump, and norms around 5."""
    return [*lognormal(calm, 0.1), 50.0, *lognormal(lost, 0.1, level=5.0, seed=1)]
