"""The numbers of a run: how many steps, how many clipped, which norms, which losses."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from gradclip.telemetry.event import Event
from gradclip.telemetry.spikes import AROUND, FEW, SPIKE
from gradclip.verdict.losses import MOST, final_loss, losses_of, mean_loss, part_of
from gradclip.verdict.quantiles import quantile
from gradclip.verdict.shape import shape_of
from gradclip.watch.journal import OWN_CODE, SCRIPT

NORMALISING = ("adam", "lion", "lamb", "adafactor", "adagrad", "rmsprop", "muon", "sophia", "rprop")
"""Optimizers whose step does not grow with the gradient, by a part of their names."""

ROUNDING = 1e-3
"""Relative difference up to which a norm counts as scaled by one coefficient. Each element of a bfloat16 gradient is
rounded by up to 2**-9 as it is scaled, a norm of many far less; parts that are clipped on their own differ by more."""


@dataclass(frozen=True)
class Numbers:
    """What is counted and measured over the steps of one run; norms have the unit of the gradient.

    `clipped` counts the finite steps on which the rule acted: made smaller, or left out. `escaped` counts the steps
    that took NaN or infinity into the optimizer. `spikes` are norms above SPIKE usual ones after the start of the
    training, which ends before the step `warm`, `caught` those of them on which the rule acted, `prominence` is the
    largest norm there in usual ones. Numbers that no step has are NaN.

    `losses` counts the steps with a loss, `nonfinite_losses` those of them whose loss is NaN or infinite; `first_loss`
    and `final_loss` are the means of the first and of the last tenth of them: infinite where one there is not finite,
    None where no step has a loss.

    `acted_from` and `acted_to` are the first and the last step on which the rule acted, -1 where it never did;
    `acted_late` counts those from `warm` on.
    `threshold` is the median of the thresholds, infinite where there was none, NaN where it was not one for the norm of
    all tensors together. `normalised`: the optimizer is known as one whose step does not grow with the
    gradient; `by_value`: elements were clipped, each by itself; `own_code`: by code of the script's own;
    `unseen` is what may clip where nobody sees it. `began` is the
    first loss of all, which no step had touched; `grew` is the last finite norm before the first that is not, in first
    ones.
    """

    steps: int
    first: int
    last: int
    finite: int
    clipped: int
    skipped: int
    nonfinite: int
    escaped: int
    acted_from: int
    acted_to: int
    acted_late: int
    warm: int
    median: float
    p90: float
    p99: float
    largest: float
    kept: float
    spikes: int
    caught: int
    prominence: float
    thresholds: tuple[float, float] | None
    """The smallest and the largest finite one; None where no step had one."""
    global_threshold: bool
    """Whether the threshold is one for the norm of the whole gradient, and not one for each part of it."""
    threshold: float
    normalised: bool
    by_value: bool
    own_code: bool
    unseen: tuple[str, ...]
    grew: float
    losses: int
    nonfinite_losses: int
    began: float | None
    first_loss: float | None
    final_loss: float | None

    @property
    def clip_rate(self) -> float:
        """The share of the finite steps on which the rule acted; NaN without finite steps."""
        return self.clipped / self.finite if self.finite else math.nan


def numbers_of(events: Sequence[Event], usual: Sequence[float] | None = None) -> Numbers:
    """The numbers of the steps of a run, whose usual norms are `usual`."""
    about = getattr(events, "about", {})
    usual = usual_norms([event.norm_before for event in events]) if usual is None else usual
    finite, warm = [event for event in events if not broken(event)], first_warm(events)
    norms = sorted(event.norm_before for event in finite)
    thresholds = [event.threshold for event in events if math.isfinite(event.threshold)]
    ratios = [
        (event.norm_before / usual_norm, event)
        for event, usual_norm in zip(events, usual, strict=True)
        if not broken(event) and event.step >= warm
    ]
    spikes = [event for ratio, event in ratios if ratio > SPIKE]
    global_threshold = scope_in(about) in (None, "Global") and all(map(is_scaled, finite))
    losses, acting = losses_of(events), [event.step for event in finite if acted(event)]
    return Numbers(
        steps=len(events),
        first=events[0].step if events else 0,
        last=events[-1].step if events else 0,
        finite=len(finite),
        clipped=len(acting),
        skipped=sum(event.skipped for event in events),
        nonfinite=len(events) - len(finite),
        escaped=sum(map(escaped, events)),
        acted_from=acting[0] if acting else -1,
        acted_to=acting[-1] if acting else -1,
        acted_late=sum(step >= warm for step in acting),
        warm=warm,
        median=quantile(norms, 0.5),
        p90=quantile(norms, 0.9),
        p99=quantile(norms, 0.99),
        largest=norms[-1] if norms else math.nan,
        kept=kept(finite),
        spikes=len(spikes),
        caught=sum(map(acted, spikes)),
        prominence=max((ratio for ratio, _ in ratios if not math.isnan(ratio)), default=math.nan),
        thresholds=(min(thresholds), max(thresholds)) if thresholds else None,
        global_threshold=global_threshold,
        threshold=median(e.threshold for e in finite) if global_threshold and finite else math.nan,
        normalised=normalises(about),
        grew=growth_in(events),
        by_value=scope_in(about) == "Element" or any("clip_grad_value_" in event.rule for event in events),
        own_code=any(event.rule.startswith(OWN_CODE) for event in events),
        unseen=tuple(about.get(SCRIPT, {}).get("unseen", ())),
        losses=len(losses),
        nonfinite_losses=sum(not math.isfinite(loss) for loss in losses),
        began=losses[0] if losses else None,
        first_loss=mean_loss(losses[: part_of(losses)]),
        final_loss=final_loss(events),
    )


def scope_in(about: Mapping[str, Any]) -> str | None:
    """The scope of the rule as what is known of a run names it; None where that does not say."""
    rule = about.get("rule")
    scope = rule.get("scope") if isinstance(rule, dict) else None
    return str(scope["type"]) if isinstance(scope, dict) and "type" in scope else None


def growth_in(events: Sequence[Event]) -> float:
    """How many times larger than the first norm the last one was before the first that is not finite; 1 without one."""
    before = list(itertools.takewhile(lambda event: not broken(event), events))
    if not before or len(before) == len(events) or not before[0].norm_before:
        return 1.0
    return before[-1].norm_before / before[0].norm_before


def first_warm(events: Sequence[Event]) -> int:
    """The number of the step that the start of the training ends before, as the norms show it; 0 of few norms."""
    levels = with_level(events)
    warmup = shape_of([event.norm_before for event in levels]).warmup if len(levels) >= FEW else 0
    return levels[warmup].step if 0 < warmup < len(levels) else 0


def with_level(events: Sequence[Event]) -> list[Event]:
    """Those whose norm before clipping is finite and above 0, and no breakdown of arithmetic."""
    return [event for event in events if 1.0 / MOST < event.norm_before < MOST]


def normalises(about: Mapping[str, Any]) -> bool:
    """Whether the optimizers of a run, where they are known, make steps whose length does not follow the gradient."""
    names = about.get("optimizer", "").lower().split(", ")
    return all(any(kind in name for kind in NORMALISING) for name in names)


def broken(event: Event) -> bool:
    """Whether the gradient of the step had a NaN or an infinity."""
    return event.nonfinite > 0 or not math.isfinite(event.norm_before)


def acted(event: Event) -> bool:
    """Whether the rule did something: made the gradient smaller, or left the step out."""
    return event.clipped or event.skipped


def escaped(event: Event) -> bool:
    """Whether a NaN or an infinity went into the optimizer."""
    return broken(event) and not event.skipped and not math.isfinite(event.norm_after)


def is_scaled(event: Event) -> bool:
    """Whether one coefficient explains what came out, and the threshold bounds it."""
    expected = event.coefficient * event.norm_before
    above = event.clipped and event.norm_after > event.threshold * (1.0 + ROUNDING)
    return event.skipped or (math.isclose(event.norm_after, expected, rel_tol=ROUNDING) and not above)


def kept(finite: Sequence[Event]) -> float:
    """What came out of all steps together, over what went in; NaN where nothing went in."""
    unit = max((event.norm_before for event in finite), default=0.0)
    if not unit:
        return math.nan
    return math.fsum(event.norm_after / unit for event in finite) / math.fsum(e.norm_before / unit for e in finite)


def usual_norms(norms: Sequence[float]) -> list[float]:
    """For each step the median norm of its block of 100 steps, or of up to 199 in the last one.

    Norms that are zero or not finite do not count; NaN where a block has no other.
    """
    starts = [*range(0, max(len(norms) - AROUND, 0) + 1, AROUND), len(norms)]
    usual: list[float] = []
    for start, end in itertools.pairwise(starts):
        counted = [norm for norm in norms[start:end] if 0 < norm < math.inf]
        usual += [median(counted) if counted else math.nan] * (end - start)
    return usual
