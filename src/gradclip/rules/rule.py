"""Rules: what to clip and how hard, as frozen data.

A `Rule` measures gradients over a scope, compares the measure with a threshold, and responds. `a >> b` is a `Chain`,
b after a. `Rules` gives each parameter the first rule whose pattern matches its name.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, overload

from gradclip.errors import shown
from gradclip.rules.arguments import is_part, items_of
from gradclip.rules.norm import L2, Linf, Norm
from gradclip.rules.plain import to_dict
from gradclip.rules.response import RAISE, Rescale, Response
from gradclip.rules.scope import Element, Global, Row, Scope
from gradclip.rules.threshold import Bounds, Constant, SecondMoment, Threshold


class Chainable:
    """What all rules share: `>>`, `to_dict`, and a sentence as `repr`."""

    def __rshift__(self, other: AnyRule) -> Chain:
        if not isinstance(other, Chainable):
            raise TypeError(f">> joins two rules, got {shown(other)} on its right")
        _refuse_carry(self, other)
        return Chain((*checked_rule(self).stages, *checked_rule(other).stages))

    def to_dict(self) -> dict[str, Any]:
        """The rule as plain data for JSON; `gradclip.from_dict` reads it back to an equal rule."""
        return to_dict(self)


@dataclass(frozen=True, repr=False)
class Rule(Chainable):
    """One rule: `out = phi(m / t) * g`, with m the `norm` of a segment of `scope`, t the `threshold`, phi the
    `response`. At scope `Element` every norm is the magnitude of the element.

    >>> Rule(scope=Tensor(), norm=Linf(), threshold=Constant(0.5))
    each tensor: a largest absolute value above 0.5 is rescaled to it
    """

    scope: Scope = field(default_factory=Global)
    norm: Norm = field(default_factory=L2)
    threshold: Threshold = field(default_factory=lambda: Constant(1.0))
    response: Response = field(default_factory=Rescale)

    def __post_init__(self) -> None:
        for name, kind in (("scope", Scope), ("norm", Norm), ("threshold", Threshold), ("response", Response)):
            if not is_part(getattr(self, name), kind):
                raise TypeError(f"{name} must be a {kind.__name__}, got {getattr(self, name)!r}: {_example(name)}")
            _refuse_hidden_arguments(name, type(getattr(self, name)))
        if isinstance(self.scope, Element):
            object.__setattr__(self, "norm", Linf())  # of one element every norm is its magnitude
        if isinstance(self.threshold, Bounds) and not isinstance(self.scope, Element):
            raise ValueError("Bounds(max, min) clips by value: write scope=Element(), or Constant(limit) for a norm")
        if isinstance(self.threshold, SecondMoment) and not isinstance(self.scope, Element):
            raise ValueError("SecondMoment() is another threshold for each element: write scope=Element()")
        if self.threshold.reads_weights and isinstance(self.scope, Element):
            raise ValueError(
                f"{self.threshold} is one for a norm of the gradient, and clipping by value has none: write "
                "scope=Tensor(), or AGC(0.01) for each unit"
            )

    @property
    def stages(self) -> tuple[Rule]:
        """Itself alone, as the stages of a chain."""
        return (self,)

    def __repr__(self) -> str:
        subject = "a magnitude" if isinstance(self.scope, Element) else self.norm.words
        if str(self.threshold) == "inf":
            return f"{self.scope.words}: {subject} is measured and never clipped"
        outside = "outside" if isinstance(self.threshold, Bounds) else "above"
        return f"{self.scope.words}: {subject} {outside} {self.threshold} is {self.response.words}"


def _refuse_hidden_arguments(name: str, kind: type) -> None:
    """Rules are compared, written and read by the fields of their parts, so a part keeps its arguments in fields."""
    for base in kind.__mro__:
        if "__init__" in vars(base) and base is not object and "__dataclass_fields__" not in vars(base):
            raise TypeError(
                f"the {name} {kind.__name__} keeps its arguments where neither == nor to_dict finds them: make it a "
                "frozen dataclass (@dataclass(frozen=True)), with a field for each"
            )


@dataclass(frozen=True, repr=False)
class Chain(Chainable):
    """Rules one after another; each sees what the one before it left.

    >>> ClipGradByNorm(10.0) >> ClipGradByGlobalNorm(1.0)
    each tensor: an L2 norm above 10 is rescaled to it; then all tensors together: an L2 norm above 1 is rescaled to it
    """

    stages: tuple[Rule | Rules, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.stages, tuple | list):
            raise TypeError(f"a chain is one of rules, got {shown(self.stages)}: write one >> the other")
        object.__setattr__(self, "stages", tuple(self.stages))
        if not self.stages:
            raise ValueError("a chain needs at least one rule")
        _refuse_carry(*self.stages)
        for stage in self.stages:
            if not isinstance(stage, Rule | Rules):
                raise TypeError(f"a chain is one of rules, got {shown(stage)}: write one >> the other")
        late = [rule for stage in self.stages[_folded(self.stages) :] for rule in rules_in(stage)]
        raising = [rule for rule in late if rule.response.action == RAISE]
        if raising:
            raise ValueError(
                f"an error would come after gradients were written: put the rule that raises first ({raising[0]!r})"
            )

    def __repr__(self) -> str:
        return "; then ".join(map(repr, self.stages))


@dataclass(frozen=True, repr=False, init=False)
class Rules(Chainable):
    """A rule by parameter name: patterns with `*`, `?` and `[...]`; the first match wins.

    `None` instead of a rule takes the parameter out of the measure and of the scaling, as does a name that no pattern
    matches. Each pattern's parameters are clipped together, apart from the others.

    >>> Rules({"*.bias": None, "embed.*": ClipGradByNorm(0.1), "*": ClipGradByGlobalNorm(1.0)})["fc.bias"] is None
    True
    """

    parts: tuple[tuple[str, Rule | Chain | None], ...]

    def __init__(self, parts: Mapping[str, Rule | Chain | None] | Iterable[tuple[str, Rule | Chain | None]]) -> None:
        pairs = _pairs(parts)
        if not pairs:
            raise ValueError('Rules needs at least one pattern: Rules({"*": ClipGradByGlobalNorm(1.0)})')
        _refuse_carry(*(rule for _, rule in pairs))
        for pattern, rule in pairs:
            if not isinstance(pattern, str) or not (rule is None or isinstance(rule, Rule | Chain)):
                raise TypeError(f"Rules maps a pattern to a rule or None, got {pattern!r}: {shown(rule)}")
        object.__setattr__(self, "parts", pairs)

    @property
    def stages(self) -> tuple[Rules]:
        """Itself alone, as the stages of a chain."""
        return (self,)

    def match(self, name: str) -> int | None:
        """The index of the first pattern that matches `name`, or None."""
        return next((i for i, (pattern, _) in enumerate(self.parts) if fnmatch.fnmatchcase(name, pattern)), None)

    def __getitem__(self, name: str) -> Rule | Chain | None:
        """The rule for the parameter `name`, None where it is left alone."""
        index = self.match(name)
        return None if index is None else self.parts[index][1]

    def __repr__(self) -> str:
        return "by name: " + "; ".join(
            f"{pattern} ({'left alone' if rule is None else repr(rule)})" for pattern, rule in self.parts
        )


def _pairs(parts: object) -> tuple[tuple[str, Rule | Chain | None], ...]:
    """The patterns with their rules, of a mapping or of pairs."""
    items = items_of(parts.items() if isinstance(parts, Mapping) else parts)
    for item in [parts] if items is None else items:
        if not isinstance(item, tuple | list) or len(item) != 2:
            example = 'Rules({"*.bias": None, "*": ClipGradByGlobalNorm(1.0)})'
            raise TypeError(f"Rules takes patterns with a rule or None for each, got {shown(item)}: write {example}")
    return tuple((str(pattern) if isinstance(pattern, str) else pattern, rule) for pattern, rule in items or ())


@dataclass(frozen=True, repr=False)
class Carry(Chainable):
    """A whole rule, and what it takes away is added to the gradients of the next step before they are measured.

    >>> Carry(ClipGradByNorm(1.0)) == UClip(ClipGradByNorm(1.0))
    True
    """

    rule: Rule | Chain | Rules

    def __post_init__(self) -> None:
        if not isinstance(self.rule, Rule | Chain | Rules):
            raise TypeError(
                f"what is carried over is that of a rule, got {shown(self.rule)}: UClip(ClipGradByNorm(1.0))"
            )

    @property
    def stages(self) -> tuple[Rule | Rules, ...]:
        """Those of the rule inside."""
        return self.rule.stages

    def __repr__(self) -> str:
        return f"{self.rule!r}; what is taken away is carried to the next step"


def _refuse_carry(*parts: object) -> None:
    """Refuse a `Carry` as a part of another rule."""
    for part in parts:
        if isinstance(part, Carry):
            raise TypeError(
                f"UClip is for a whole rule, and here it is a part of one: write UClip(a >> b), not {part!r}"
            )


def folds(rules: Sequence[Rule], rule: Rule) -> bool:
    """Whether one read and one write of the gradients can serve `rule` together with the `rules` before it.

    Rescaling rules fold, because `||c g|| = c ||g||`: the norms that the next one needs follow from those already
    measured. By value elements change one by one; the rows of one axis do not combine to those of another.
    """
    elementwise = any(isinstance(each.scope, Element) for each in (*rules, rule))
    axes = {each.scope for each in (*rules, rule) if isinstance(each.scope, Row)}
    return not elementwise and rule.norm.p == rules[0].norm.p and len(axes) <= 1


def _folded(stages: Sequence[Rule | Rules]) -> int:
    """How many stages of a chain are measured before anything is written."""
    leading: list[Rule] = []
    for stage in stages:
        if isinstance(stage, Rules) or (leading and not folds(leading, stage)):
            break
        leading.append(stage)
    return len(leading) or 1


AnyRule: TypeAlias = Rule | Chain | Rules | Carry
"""What is taken wherever a rule is asked for."""


def rules_in(rule: AnyRule) -> list[Rule]:
    """Every single `Rule` inside `rule`, in order."""
    found: list[Rule] = []
    for stage in rule.stages:
        inner = [part for _, part in stage.parts if part is not None] if isinstance(stage, Rules) else [stage]
        found += [stage] if isinstance(stage, Rule) else [rule for part in inner for rule in rules_in(part)]
    return found


@overload
def rewritten(rule: Rule, change: Callable[[Rule], Rule]) -> Rule: ...
@overload
def rewritten(rule: Chain, change: Callable[[Rule], Rule]) -> Chain: ...
@overload
def rewritten(rule: Rules, change: Callable[[Rule], Rule]) -> Rules: ...
@overload
def rewritten(rule: Carry, change: Callable[[Rule], Rule]) -> Carry: ...
def rewritten(rule: AnyRule, change: Callable[[Rule], Rule]) -> AnyRule:
    """`rule` with each `Rule` inside it replaced by `change` of it."""
    if isinstance(rule, Rule):
        return change(rule)
    if isinstance(rule, Carry):
        return Carry(rewritten(rule.rule, change))
    if isinstance(rule, Chain):
        return Chain(tuple(rewritten(stage, change) for stage in rule.stages))
    return Rules([(name, None if part is None else rewritten(part, change)) for name, part in rule.parts])


def checked_rule(rule: object) -> AnyRule:
    """`rule`, or the error for what is none."""
    if isinstance(rule, Rule | Chain | Rules | Carry):
        return rule
    example = "Rule(threshold=...) with it" if isinstance(rule, Threshold) else "for example ClipGradByGlobalNorm(1.0)"
    raise TypeError(f"expected a clipping rule, got {shown(rule)}: write {example}")


def _example(name: str) -> str:
    return {
        "scope": "write Global(), Tensor() or Element()",
        "norm": "write L2() or Linf()",
        "threshold": "write Constant(1.0) or Schedule((0, 10.0), (1000, 1.0))",
        "response": "write Rescale() or SkipStep()",
    }[name]
