"""Results: what one clip did, read only when someone asks."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

from gradclip.engines.base import Engine
from gradclip.rules.arrays import Array, Operand
from gradclip.rules.norm import L2, Linf, Norm
from gradclip.rules.response import ACTION_NAMES, SCALE, SKIP, ZERO
from gradclip.step.nonfinite import offenders_in
from gradclip.step.part import Part, actions_of, changed, closing, joined, names_in, norms_in, opening, with_arrays


class Segment(NamedTuple):
    """One row of `Result.segments`; norms and threshold have the unit of the gradient.

    >>> import numpy as np
    >>> from gradclip.testing import REFERENCE
    >>> result = REFERENCE.clip(ClipGradByNorm(1.0), [np.array([3.0, 4.0]), np.array([0.5])]).result
    >>> [(segment.name, segment.norm_before, segment.norm_after) for segment in result.segments]
    [('t0', 5.0, 1.0), ('t1', 0.5, 0.5)]
    """

    name: str
    norm_before: float
    norm_after: float
    threshold: float
    coefficient: float
    action: str


class Result:
    """What one clip did. Reading a number may wait for the device; nothing else does.

    `norm_before` is over everything that the first stage measured, `norm_after` the same norm after the last stage that
    measures it; where the parts of a rule measure different norms, the largest of them. `threshold` and `coefficient`
    are those of the segment that was clipped hardest; `segments` has each. `loss` is what was given for the step.

    >>> import numpy as np
    >>> from gradclip.testing import REFERENCE
    >>> result = REFERENCE.clip(ClipGradByGlobalNorm(1.0), [np.array([3.0, 4.0])]).result
    >>> result.norm_before, result.coefficient, result.clipped
    (5.0, 0.2, True)
    """

    def __init__(self, step: int, engine: Engine, overflow: Operand = None, loss: Operand = None) -> None:
        self.step = step
        self.overflow = overflow
        self.loss = loss
        self.parts: list[Part] = []
        self.looked_up: list[str] = []
        self.source = engine
        self._skipped: bool | None = None

    @property
    def engine(self) -> str:
        """The name of the engine that measured and wrote."""
        return self.source.name

    @cached_property
    def norm_before(self) -> float:
        """The norm before clipping, in the unit of the gradient; NaN or infinity where an element is."""
        return self._overall([(part, 0, False) for part in opening(self.parts)])

    @cached_property
    def norm_after(self) -> float:
        """The norm of the first stage, after the last stage that measures it; 0 where the step is skipped."""
        return 0.0 if self.skipped else self._overall([(*last, True) for last in closing(self._taken)])

    @property
    def norm(self) -> Norm:
        """The norm that `norm_before` and `norm_after` are; that of elements is the largest magnitude."""
        norms = {Linf() if part.sweep.elementwise else part.sweep.stages[0].norm for part in opening(self.parts)}
        return norms.pop() if len(norms) == 1 else Linf() if norms else L2()

    @property
    def threshold(self) -> float:
        """The threshold of the segment that was clipped hardest."""
        return self._hardest[1]

    @property
    def coefficient(self) -> float:
        """The smallest coefficient that was applied; 1 where nothing was clipped."""
        return self._hardest[0]

    @cached_property
    def clipped(self) -> bool:
        """Whether any gradient was changed."""
        return not self.skipped and any({SCALE, ZERO} & actions_of(part, self.source) for part in self.parts)

    @cached_property
    def nonfinite(self) -> int:
        """The number of non-finite elements; an engine that waits for a device may count a tensor as one."""
        counts: dict[int, float] = {}
        for part in self.parts:
            counts[part.key[0]] = counts.get(part.key[0], 0.0) + sum(self.to_host(part.measure.nonfinite))
        return int(max(counts.values(), default=0.0))

    @cached_property
    def offenders(self) -> list[str]:
        """The names of the tensors with a non-finite element, where each was measured.

        Where not, those that were `looked_up`, by a clipper with telemetry or one that raised.
        """
        names = [name for part in self.parts for name in offenders_in(part, self.to_host)]
        return list(dict.fromkeys(names)) or self.looked_up

    @cached_property
    def tensors(self) -> dict[str, float]:
        """The norm of each tensor before clipping, in the norm of the first stage, so far as each was measured."""
        return dict(pair for part in opening(self.parts) for pair in norms_in(part, self.to_host))

    @property
    def skipped(self) -> bool:
        """Whether the optimizer must not step."""
        if self._skipped is None:
            self._skipped = any(self.to_host(flag)[0] > 0 for flag in self.skip_flags())
        return self._skipped

    @cached_property
    def segments(self) -> list[Segment]:
        """Each segment of each stage, in the order of the rule."""
        return [
            row for part in self.parts for stage in range(len(part.sweep.stages)) for row in self._rows(part, stage)
        ]

    def settle(self, skipped: bool) -> None:
        """Record whether the step is skipped, once a host has read it."""
        self._skipped = skipped

    def skip_flags(self) -> list[Operand]:
        """Flags on the device: whether a stage asks to skip the step, for each, and whether a loss scaler does."""
        pairs = [(part, decision) for part in self.parts for decision in part.plan.decisions]
        flags = [part.measure.xp.any(decision.action == SKIP) for part, decision in pairs]
        return flags if self.overflow is None else [*flags, self.overflow > 0]

    def with_arrays(self, change: Callable[[Array], Array]) -> Result:
        """A copy with `change` of each array that can be read of it, and nothing that was only for writing."""
        other = copy.copy(self)
        other.parts = [with_arrays(part, change) for part in self.parts]
        other.overflow, other.loss = changed(change, self.overflow), changed(change, self.loss)
        return other

    def __float__(self) -> float:
        return self.norm_before

    def __repr__(self) -> str:
        what = "skipped" if self.skipped else "clipped" if self.clipped else "not clipped"
        return (
            f"<step {self.step}: {what}, norm {self.norm_before:.4g} -> {self.norm_after:.4g}, threshold "
            f"{self.threshold:.4g}, coefficient {self.coefficient:.4g}, {self.nonfinite} non-finite, "
            f"{self.engine} engine>"
        )

    def to_host(self, array: Array) -> list[float]:
        """The numbers of an array of the engine that served."""
        return self.source.to_host(array)

    @cached_property
    def _taken(self) -> list[Part]:
        """The parts up to the phase that asked to skip; an engine that waits went on, not knowing of it."""
        skipping = [part.key[0] for part in self.parts if SKIP in actions_of(part, self.source)] if self.skipped else []
        return [part for part in self.parts if part.key[0] <= min(skipping, default=part.key[0])]

    @cached_property
    def _hardest(self) -> tuple[float, float]:
        """The coefficient and the threshold of the segment that was clipped hardest, the first of several."""
        found = []
        for decision in (decision for part in self.parts for decision in part.plan.decisions):
            factors = self._spread(decision.coefficient, 1)
            if factors:
                place = factors.index(min(factors))
                found.append((factors[place], self._spread(decision.threshold, len(factors))[place]))
        return min(found, key=lambda pair: pair[0], default=(1.0, math.inf))

    def _overall(self, stages: list[tuple[Part, int, bool]]) -> float:
        """The norm over all segments of the given stages, each before or after its coefficient."""
        norms = {part.sweep.stages[stage].norm for part, stage, _ in stages}
        if not norms:
            return 0.0
        values: list[float] = []
        sizes: list[int] = []
        for part, stage, after in stages:
            decision = part.plan.decisions[stage]
            found = self.to_host(decision.norm)
            sizes += part.segments[stage].sizes or [1] * len(found)
            if after:
                factors = self._spread(decision.coefficient, len(found))
                limits = self._spread(decision.threshold, len(found))
                found = list(map(length_after, found, factors, limits))
            values += found
        return joined(values, sizes, norms.pop() if len(norms) == 1 else Linf())

    def _rows(self, part: Part, stage: int) -> list[Segment]:
        rule, decision = part.sweep.stages[stage], part.plan.decisions[stage]
        before, actions = self.to_host(decision.norm), self.to_host(decision.action)
        factors = self._spread(decision.coefficient, len(before))
        thresholds = self._spread(decision.threshold, len(before))
        names = names_in(part, rule.scope, len(before))
        return [
            Segment(name, n, length_after(n, c, t), t, c, ACTION_NAMES[int(action)])
            for name, n, t, c, action in zip(names, before, thresholds, factors, actions, strict=True)
        ]

    def _spread(self, value: Operand, count: int) -> list[float]:
        """One number for all segments, or one each, as a list."""
        values = [value] if isinstance(value, int | float) else self.to_host(value)
        return values * count if len(values) == 1 else values


def length_after(norm: float, coefficient: float, threshold: float) -> float:
    """A norm after its segment was scaled; one that float64 cannot hold comes out at its threshold."""
    if coefficient in (0.0, 1.0):
        return norm if coefficient else 0.0
    return threshold if math.isinf(norm) else norm * coefficient
