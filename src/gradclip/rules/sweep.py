"""Sweeps: the stages of a rule that one read and one write of the gradients serve; a new one begins where a stage does
not fold with those before it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest

from gradclip.rules.norm import RMS, Norm
from gradclip.rules.rule import AnyRule, Chain, Rule, Rules, folds
from gradclip.rules.scope import Element, Row, Scope, Tensor, finest


@dataclass(frozen=True)
class Sweep:
    """Stages measured together at scope `leaf` and applied together.

    `per_tensor` asks for a measure of each tensor even where the stages need none.
    """

    stages: tuple[Rule, ...]
    per_tensor: bool = False

    @cached_property
    def leaf(self) -> Scope:
        leaf = finest([stage.scope for stage in self.stages])
        return Tensor() if self.per_tensor and leaf.grain > Tensor.grain else leaf

    @cached_property
    def norm(self) -> Norm:
        return self.stages[0].norm

    @cached_property
    def elementwise(self) -> bool:
        return isinstance(self.stages[0].scope, Element)

    @cached_property
    def reads_weights(self) -> bool:
        return any(stage.threshold.reads_weights for stage in self.stages)

    @cached_property
    def keeps_rows(self) -> bool:
        return any(stage.threshold.keeps_rows for stage in self.stages)

    @cached_property
    def reads_shapes(self) -> bool:
        """Whether the shapes of the gradients are needed: to name rows, to combine segments, or to count elements."""
        return any(
            isinstance(stage.scope, Row) or stage.scope != self.leaf or isinstance(stage.norm, RMS)
            for stage in self.stages
        )


@dataclass(frozen=True)
class Phase:
    """Sweeps that run at the same time on different tensors: one for all, or one for each pattern of `names`."""

    sweeps: tuple[Sweep | None, ...]
    names: Rules | None = None

    @property
    def writes_early(self) -> bool:
        """Whether one of its sweeps may be written while it is measured, before another was."""
        return len(self.sweeps) > 1 and any(sweep is not None and sweep.elementwise for sweep in self.sweeps)


def phases_of(rule: AnyRule) -> tuple[Phase, ...]:
    """The phases of `rule`, in order."""
    phases: list[Phase] = []
    for stage in rule.stages:
        if isinstance(stage, Rules):
            phases += _phases_by_name(stage)
        elif phases and phases[-1].names is None and (last := phases[-1].sweeps[0]) and folds(last.stages, stage):
            phases[-1] = Phase((Sweep((*last.stages, stage)),))
        else:
            phases.append(Phase((Sweep((stage,)),)))
    return tuple(phases)


def _phases_by_name(rules: Rules) -> list[Phase]:
    columns = [_sweeps_of(rule) for _, rule in rules.parts]
    return [Phase(sweeps, rules) for sweeps in zip_longest(*columns)]


def _sweeps_of(rule: Rule | Chain | None) -> list[Sweep | None]:
    return [] if rule is None else [phase.sweeps[0] for phase in phases_of(rule)]
