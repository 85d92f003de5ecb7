"""What the clipping that was on while a run was recorded did to its steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from gradclip.telemetry.event import Event

ALWAYS, OFTEN = 0.95, 0.5
"""Shares of clipped steps. From the first on nearly every step comes out with the same length, whatever the gradient
was; from the second on ordinary steps are clipped, and not only those that stand out."""
TOLERANCE = 1e-2
"""Norms of half precision have two digits."""
MOST = 1e150
"""A norm above it counts as not finite: it is no level but a breakdown, and its sums leave the range of a float."""


NORMALISING = ("adam", "lion", "lamb", "adafactor", "adagrad", "rmsprop", "muon", "sophia", "rprop")
"""Optimizers whose step does not grow with the gradient, by a part of their names."""


@dataclass(frozen=True)
class RecordedClipping:
    """What clipping did to the finite steps of a run.

    `threshold` is its median, infinite where there was none, and NaN where it was none for the norm of all tensors
    together, so that clipped steps did not come out at it; `rate` is the share of the steps that were changed or
    skipped, `kept` what came out over what went in, and `broken` the share of the steps that are not finite.
    `normalised` says that the optimizer is known as one whose step does not grow with the gradient.
    """

    threshold: float
    rate: float
    kept: float
    broken: float
    normalised: bool = False


def recorded_clipping(run: Sequence[Event]) -> RecordedClipping:
    """What the events of a run say of its clipping."""
    finite = [event for event in run if event.norm_before < MOST]
    total = math.fsum(event.norm_before for event in finite)
    left = math.fsum(0.0 if event.skipped else event.norm_after for event in finite)
    return RecordedClipping(
        threshold=_threshold_in(finite),
        rate=sum(event.clipped or event.skipped for event in finite) / max(len(finite), 1),
        kept=left / total if total else 1.0,
        broken=1.0 - len(finite) / max(len(run), 1),
        normalised=normalises(getattr(run, "about", {})),
    )


def normalises(about: Mapping[str, Any]) -> bool:
    """Whether the optimizers of a run, where they are known, make steps whose length does not follow the gradient."""
    names = about.get("optimizer", "").lower().split(", ")
    return all(any(kind in name for kind in NORMALISING) for name in names)


def _threshold_in(finite: Sequence[Event]) -> float:
    clipped = [event for event in finite if event.clipped and not event.skipped]
    if not all(math.isclose(event.norm_after, event.threshold, rel_tol=TOLERANCE) for event in clipped):
        return math.nan
    return median(event.threshold for event in finite) if finite else math.inf
