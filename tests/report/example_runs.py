"""Runs made by hand: norms under a fixed threshold, and what became of them."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from pathlib import Path

from gradclip.telemetry import Event, Run


def step(number, norm, threshold=math.inf, skipped=False, **more):
    """The event of a step under a global threshold."""
    finite = math.isfinite(norm)
    coefficient = threshold / norm if finite and norm > threshold else 1.0
    fields = {
        "step": number,
        "rule": f"an L2 norm above {threshold:g} is rescaled to it",
        "engine": "cpu",
        "norm_before": norm,
        "norm_after": 0.0 if skipped else coefficient * norm,
        "threshold": threshold,
        "coefficient": coefficient,
        "clipped": coefficient < 1 and not skipped,
        "skipped": skipped,
        "nonfinite": 0 if finite else 2,
        "offenders": () if finite else ("head.weight",),
    }
    return Event(**fields | more)


def run_of(norms, threshold=math.inf, path="runs/made", **more):
    """The run of these norms; `skipped` leaves out the steps that are not finite."""
    skips = more.pop("skipped", False)
    steps = [step(i, norm, threshold, skips and not math.isfinite(norm), **more) for i, norm in enumerate(norms)]
    return Run(steps, {}, Path(path))


def with_tensors(run, tensors):
    """The run, whose event of step i has the norms `tensors(i)`."""
    return Run([replace(event, tensors=tensors(event.step)) for event in run], run.about, run.path)


def with_losses(run, losses):
    """The run, whose steps have these losses."""
    return Run([replace(event, loss=loss) for event, loss in zip(run, losses, strict=True)], run.about, run.path)


def falling(steps, first=4.0, last=1.0, spread=0.1, seed=0):
    """Losses that fall from the first to the last along an exponential, with normal noise of this standard deviation.

    The last third is level.
    """
    drawn = random.Random(seed)
    return [last + (first - last) * math.exp(-15.0 * i / steps) + drawn.gauss(0.0, spread) for i in range(steps)]


def noise(steps, spikes=(), seed=0):
    """Norms around 1 that differ by up to a factor of 2, and 50 at the steps `spikes`."""
    drawn = random.Random(seed)
    return [50.0 if i in spikes else 2.0 ** drawn.uniform(-1, 1) for i in range(steps)]
