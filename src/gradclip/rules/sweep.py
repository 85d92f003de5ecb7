"""Sweeps: the stages of a rule that one read and one write of the gradients serve.

Rescaling stages fold, because `||c g|| = c ||g||`: the norms that the next stage needs follow from those already
measured. A stage at scope `Element` does not (it changes elements one by one), nor does a change of norm, so a new
sweep begins there.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from typing import TYPE_CHECKING

from gradclip.rules.norm import RMS, Norm
from gradclip.rules.scope import Element, Row, Scope, Tensor, finest

if TYPE_CHECKING:
    from gradclip.rules.rule import AnyRule, Chain, Rule, Rules


@dataclass(frozen=True)
class Sweep:
    """Stages measured together at scope `leaf` and applied together.

    `apart` asks for a measure of each tensor even where the stages need none.
    """

    stages: tuple[Rule, ...]
    apart: bool = False

    @cached_property
    def leaf(self) -> Scope:
        leaf = finest([stage.scope for stage in self.stages])
        return Tensor() if self.apart and leaf.grain > Tensor.grain else leaf

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

    def takes(self, stage: Rule) -> bool:
        """Whether `stage` can follow in the same sweep; rows of one axis do not combine to those of another."""
        rows = {one.scope for one in (*self.stages, stage) if isinstance(one.scope, Row)}
        return (
            not self.elementwise
            and not isinstance(stage.scope, Element)
            and stage.norm.p == self.norm.p
            and len(rows) <= 1
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
        if stage.by_name is True:
            phases += _phases_by_name(stage)
        elif phases and phases[-1].names is None and (last := phases[-1].sweeps[0]) and last.takes(stage):
            phases[-1] = Phase((Sweep((*last.stages, stage)),))
        else:
            phases.append(Phase((Sweep((stage,)),)))
    return tuple(phases)


def _phases_by_name(rules: Rules) -> list[Phase]:
    columns = [_sweeps_of(rule) for _, rule in rules.parts]
    return [Phase(sweeps, rules) for sweeps in zip_longest(*columns)]


def _sweeps_of(rule: Rule | Chain | None) -> list[Sweep | None]:
    return [] if rule is None else [phase.sweeps[0] for phase in phases_of(rule)]
