"""Rules made from rules: measured only, without their responses, with other thresholds."""

from __future__ import annotations

from dataclasses import replace

from gradclip.rules.response import Rescale
from gradclip.rules.rule import AnyRule, rewritten
from gradclip.rules.threshold import Bounds, Constant, Schedule, Threshold
from gradclip.step.result import Segment
from gradclip.testing.bench import Bench, Values


def measuring(rule: AnyRule) -> AnyRule:
    """`rule` with infinite thresholds: it measures and writes nothing."""
    return rewritten(rule, lambda single: replace(single, threshold=Constant(None), response=Rescale()))


def scaled(rule: AnyRule, factor: float) -> AnyRule:
    """`rule` with each threshold times `factor`."""
    return rewritten(rule, lambda single: replace(single, threshold=scaled_threshold(single.threshold, factor)))


def scalable(threshold: Threshold) -> bool:
    """Whether `scaled_threshold` knows what to do."""
    return isinstance(threshold, Constant | Bounds | Schedule)


def scaled_threshold(threshold: Threshold, factor: float) -> Threshold:
    """`factor` times `threshold`."""
    if isinstance(threshold, Constant):
        return Constant(threshold.value(0) * factor)
    if isinstance(threshold, Bounds):
        return Bounds(threshold.max * factor, threshold.min * factor)
    if isinstance(threshold, Schedule):
        return Schedule(lambda step: threshold.value(step) * factor)
    raise TypeError(f"nobody knows how {threshold!r} scales")


def segments_by_reference(rule: AnyRule, arrays: list[Values], bench: Bench) -> list[Segment]:
    """Each segment of each stage of `rule` as the reference engine sees it, float64."""
    outcome = bench.oracle.clip(rule, arrays)
    assert outcome.result is not None
    return outcome.result.segments


def quiet(rule: AnyRule, arrays: list[Values], bench: Bench) -> list[Values]:
    """`arrays` times a power of two that brings every measure to a quarter of its threshold or below."""
    hard = rewritten(rule, lambda single: replace(single, response=Rescale()))
    limits, rows = (segments_by_reference(single, arrays, bench) for single in (hard, measuring(rule)))
    pairs = [(limit.threshold, row.norm_before) for limit, row in zip(limits, rows, strict=True)]
    room = min([threshold / norm for threshold, norm in pairs if norm > 0], default=1.0)
    factor = 1.0
    while factor > room / 4:
        factor /= 2
    return [array * factor for array in arrays]
