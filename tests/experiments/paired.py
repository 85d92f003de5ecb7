"""Comparisons made of numbers, for tests of what is said of them."""

from __future__ import annotations

from gradclip.experiments import Comparison, Contender, Metric, Trained, TrainingOutcome


def compared(metric: Metric | None = None, /, **metrics: list[float]) -> Comparison:
    """A comparison of rules with these metrics, seed by seed."""
    contenders = [
        Contender(text, text, tuple(Trained(seed, TrainingOutcome(value), 1.0) for seed, value in enumerate(values)))
        for text, values in metrics.items()
    ]
    return Comparison("made up", metric or Metric(), tuple(contenders), {})
