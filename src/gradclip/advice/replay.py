"""Replay: what a rule does to the norms that a run recorded, one number a step.

It is the code that clips that decides here too (`gradclip.step.decide`). What a replay cannot know is how training
would have gone on: had another rule been there, later norms would be others.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gradclip.engines.base import Measure
from gradclip.errors import shown
from gradclip.rules.arrays import SCALARS, ArrayFunctions
from gradclip.rules.norm import Linf
from gradclip.rules.response import KEEP, RAISE, SKIP
from gradclip.rules.rule import AnyRule, Carry, Rule, Rules, checked_rule
from gradclip.rules.scope import Global
from gradclip.rules.threshold import State
from gradclip.step.decide import Terms, decide_sweep
from gradclip.step.part import AS_MEASURED


@dataclass(frozen=True)
class Replay:
    """What a rule did to the finite or non-finite `norms` of a run, step by step.

    `thresholds` are those of the stage that clipped hardest, infinite where there was none; `outputs` are the norms
    after clipping: 0 where the step would be skipped, NaN where the norm is not finite.
    """

    norms: list[float]
    thresholds: list[float]
    outputs: list[float]

    @property
    def clip_rate(self) -> float:
        """The share of the finite steps that come out smaller or are skipped; 0 without finite steps."""
        finite = self._finite
        return sum(output < norm for norm, output in finite) / max(len(finite), 1)

    @property
    def kept(self) -> float:
        """What comes out of all finite steps together, over what went in; 1 where nothing went in."""
        unit = max((norm for norm, _ in self._finite), default=0.0)  # their sum may leave the range of a float
        if unit == 0.0:
            return 1.0
        total = math.fsum(norm / unit for norm, _ in self._finite)
        return math.fsum(output / unit for _, output in self._finite) / total

    @property
    def largest(self) -> float:
        """The largest norm that comes out; 0 without finite steps."""
        return max((output for _, output in self._finite), default=0.0)

    @property
    def _finite(self) -> list[tuple[float, float]]:
        pairs = zip(self.norms, self.outputs, strict=True)
        return [(norm, output) for norm, output in pairs if math.isfinite(norm)]


def replay(norms: Sequence[float], rule: AnyRule) -> Replay:
    """Play `rule` over the global norms of the steps of a run, in the norm that the rule measures.

    Raises `ValueError` for a rule that reads more than that: the norms of single tensors or elements, weights, a loss.
    One that remembers a window of norms needs NumPy.

    >>> found = replay([0.5, 4.0, 1.0], ClipGradByGlobalNorm(2.0))
    >>> found.outputs, found.clip_rate, found.kept
    ([0.5, 2.0, 1.0], 0.3333333333333333, 0.6363636363636364)
    """
    numbers = [float(norm) for norm in norms]
    stages = replayable_stages(rule)
    steps = list(_in_arrays(stages, numbers) if _keeps_rows(stages) else _in_floats(stages, numbers))
    return Replay(numbers, [threshold for threshold, _ in steps], [output for _, output in steps])


def replayable_stages(rule: AnyRule) -> list[Rule]:
    """The stages of a rule that global norms are enough for; `ValueError` says what others would need."""
    stages = checked_rule(rule).stages
    missing = _needs_beyond_norms(rule, stages)
    if missing:
        raise ValueError(
            f"a run has one norm a step, and this rule {missing}: it cannot be replayed; take one of all tensors "
            f"together, such as ClipGradByGlobalNorm(1.0) or ZClip(), got {shown(rule)}"
        )
    # Of one number every norm is its magnitude, and that of a maximum is taken without squares.
    return [replace(stage, norm=Linf()) for stage in stages if isinstance(stage, Rule)]


def _needs_beyond_norms(rule: AnyRule, stages: Sequence[Rule | Rules]) -> str:
    """What a rule reads or does that the norms of a run do not show."""
    single = [stage for stage in stages if isinstance(stage, Rule)]
    reads = sorted(name for stage in single for name in stage.threshold.reads_given)
    needs = {
        "adds what it took away to the next gradient": isinstance(rule, Carry),
        "goes by the names of parameters": len(single) < len(stages),
        "measures parts of the gradient": any(not isinstance(stage.scope, Global) for stage in single),
        "measures several kinds of norm": len({stage.norm for stage in single}) > 1,
        "reads the norms of the weights": any(stage.threshold.reads_weights for stage in single),
        f"reads the {' and the '.join(reads)}": bool(reads),
        "ends a run by an error": any(stage.response.action == RAISE for stage in single),
    }
    return next((words for words, holds in needs.items() if holds), "")


def _keeps_rows(stages: Sequence[Rule]) -> bool:
    return any(stage.threshold.keeps_rows for stage in stages)


def _in_floats(stages: Sequence[Rule], norms: Sequence[float]) -> Iterator[tuple[float, float]]:
    return _played(stages, (Measure(norm, not math.isfinite(norm), SCALARS) for norm in norms))


def _in_arrays(stages: Sequence[Rule], norms: Sequence[float]) -> Iterator[tuple[float, float]]:
    try:
        import numpy as np
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            'a rule that remembers a window of norms is replayed with NumPy: pip install "gradclip[cpu]"'
        ) from None
    from gradclip.engines.reference import NUMPY

    xp: ArrayFunctions = NUMPY
    measures = (Measure(np.array([norm]), np.array([not math.isfinite(norm)]), xp) for norm in norms)
    with np.errstate(all="ignore"):
        yield from _played(stages, measures)


def _played(stages: Sequence[Rule], measures: Iterator[Measure]) -> Iterator[tuple[float, float]]:
    """For each step the threshold of the stage that clips hardest, and the norm that comes out."""
    parts = [AS_MEASURED] * len(stages)
    states: list[State] = [{}] * len(stages)
    for step, measure in enumerate(measures):
        plan = decide_sweep(measure, stages, parts, states, Terms(step=step))
        states = [decision.state for decision in plan.decisions]
        hardest = min(plan.decisions, key=lambda decision: float(_number(decision.coefficient)))
        yield _number(hardest.threshold), _output(measure, plan.coefficient, [d.action for d in plan.decisions])


def _output(measure: Measure, coefficient: Any, actions: Sequence[Any]) -> float:
    taken = {_number(action) for action in actions}
    if KEEP in taken:
        return math.nan
    return 0.0 if SKIP in taken else _number(measure.total) * _number(coefficient)


def _number(value: Any) -> float:
    """A number, or the only one of an array."""
    return value if isinstance(value, int | float) else value.item()
