"""What the last step did: the numbers that an optimizer keeps in one of its variables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

NUMBERS = 9
"""The numbers in the variable: the fields of `gradclip.optax.Last`, in their order."""


@dataclass(frozen=True)
class LastStep:
    """What the last step of a clipped optimizer did, as plain numbers.

    `step` counts the steps of the clip from 0, with those that were left out. `norm_before` is over everything that the
    first stage of the rule measured, `norm_after` the same norm after the last stage that measures it (0 where the step
    was skipped). `threshold` (infinite where there is none) and `coefficient` are those of the segment that was clipped
    hardest. `clipped` says whether any gradient was changed, `nonfinite` counts non-finite elements (on JAX tensors or
    rows with one), `skipped` says whether the step was left out, and `consecutive_skips` how many were in a row.
    `tensors` has the norm of each gradient before clipping by the path of its variable, with `clip(..., tensors=True)`.

    >>> LastStep(0, 5.0, 1.0, 1.0, 0.2, True, 0, False, 0).norm_before
    5.0
    """

    step: int
    norm_before: float
    norm_after: float
    threshold: float
    coefficient: float
    clipped: bool
    nonfinite: int
    skipped: bool
    consecutive_skips: int
    tensors: Mapping[str, float] | None = None


def last_step_of(numbers: Sequence[float], largest: float, steps: int, skips: int) -> LastStep:
    """The last of so many `steps`, from the numbers in the variable; one of `largest` or more is no threshold."""
    before, after, threshold, coefficient, clipped, nonfinite, skipped, excess_before, excess_after = numbers
    return LastStep(
        step=steps - 1,
        norm_before=before * excess_before,
        norm_after=after * excess_after,
        threshold=math.inf if threshold >= largest else threshold,
        coefficient=coefficient,
        clipped=bool(clipped),
        nonfinite=int(nonfinite),
        skipped=bool(skipped),
        consecutive_skips=skips,
    )
