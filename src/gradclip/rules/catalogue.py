"""The catalogue: what is known of each named method, read from the function that is the method."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from gradclip.rules import recipes
from gradclip.rules.history import History
from gradclip.rules.rule import AnyRule, Carry, Rule, rules_in
from gradclip.rules.scope import Element, Tensor
from gradclip.rules.text import looked_up, recipes_by_name
from gradclip.rules.threshold import Threshold

LABELS = ("Formula", "Source", "Differs from the original", "Mind")
EXAMPLES: dict[str, dict[str, Any]] = {
    "ClipGradByValue": {"max": 1.0},
    "ClipGradByNorm": {"clip_norm": 1.0},
    "ClipGradByGlobalNorm": {"clip_norm": 1.0},
    "UClip": {"rule": recipes.ClipGradByValue(1.0)},
}
"""What to give to the methods that have an argument without a default, to show their rule."""


@dataclass(frozen=True)
class Method:
    """One named method; the texts are those of its docstring."""

    name: str
    function: Callable[..., AnyRule]

    @property
    def law(self) -> str:
        """What it does, in one sentence."""
        return self._part("")

    @property
    def formula(self) -> str:
        return self._part("Formula")

    @property
    def source(self) -> str:
        return self._part("Source")

    @property
    def differences(self) -> list[str]:
        """What is different from the original, one by one; empty where nothing is."""
        text = self._part("Differs from the original").rstrip(".")
        return [part.strip().rstrip(";") for part in re.split(r"\(\d\) ", text) if part.strip()]

    @property
    def mind(self) -> str:
        """What its user should know; empty where there is nothing."""
        return self._part("Mind")

    @property
    def signature(self) -> str:
        """Its arguments with their defaults, without types."""
        bare = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in self._parameters()]
        return f"{self.name}{inspect.Signature(bare)}".replace("'", '"')

    @property
    def defaults(self) -> dict[str, Any]:
        """Its arguments that have a default."""
        return {p.name: p.default for p in self._parameters() if p.default is not p.empty}

    @property
    def rule(self) -> AnyRule:
        """The rule with the published defaults."""
        return self.function(**EXAMPLES.get(self.name, {}))

    @property
    def coordinates(self) -> list[dict[str, str]]:
        """Scope, norm, threshold and response of each of its stages, as they are written."""
        return [
            {name: _written(getattr(rule, name)) for name in ("scope", "norm", "threshold", "response")}
            for rule in rules_in(self.rule)
        ]

    @property
    def state(self) -> str:
        """What it remembers, in numbers for each segment."""
        parts = ["one tensor for each gradient"] if isinstance(self.rule, Carry) else []
        parts += [state_of(rule) for rule in rules_in(self.rule)]
        return "; ".join(text for text in parts if text) or "nothing"

    def _parameters(self) -> list[inspect.Parameter]:
        return list(inspect.signature(self.function).parameters.values())

    def _part(self, label: str) -> str:
        return parts_of(inspect.getdoc(self.function) or "").get(label, "")


def methods() -> dict[str, Method]:
    """Every named method, in the order in which `recipes` has them."""
    return {name: Method(name, getattr(recipes, name)) for name in recipes.NAMES}


def method_called(name: str) -> Method:
    """The method of this name, or of one that is short for it, whatever its capitals; `ValueError` names the nearest
    one."""
    known, every = methods(), recipes_by_name()
    found, _ = looked_up(name, every)
    if found is None:
        _, near = looked_up(name, known)
        hint = f"did you mean {near}?" if near else "`gradclip methods` lists them all"
        raise ValueError(f"no method is called {name!r}: {hint}")
    for method in known.values():
        if method.function is every[found]:
            return method
    words = (inspect.getdoc(every[found]) or "").partition("\n")[0].removesuffix(".")
    raise ValueError(f"{found!r} is no method of the literature, but a rule of its own: {words[0].lower()}{words[1:]}")


def parts_of(doc: str) -> dict[str, str]:
    """The parts of a docstring by label, each as one line; the first sentence has the label ""."""
    text = doc.partition(">>>")[0]
    pieces = re.split(rf"^({'|'.join(LABELS)}):", text, flags=re.MULTILINE)
    named = dict(zip(["", *pieces[1::2]], pieces[0::2], strict=True))
    return {label: " ".join(part.split()) for label, part in named.items()}


def state_of(rule: Rule) -> str:
    """How many numbers a rule remembers for each of its segments; empty where it remembers nothing."""
    count = numbers_of(rule.threshold)
    where = Tensor() if isinstance(rule.scope, Element) else rule.scope
    return f"{count} numbers for {where.words}" if count else ""


def numbers_of(threshold: Threshold) -> int:
    """The numbers that a threshold remembers for one segment."""
    if isinstance(threshold, History):
        return sum(max(rows, 1) for rows in threshold.memory_rows().values())
    inner = [getattr(threshold, field.name) for field in fields(threshold)]
    parts = [part for value in inner for part in (value if isinstance(value, tuple) else (value,))]
    return sum(numbers_of(part) for part in parts if isinstance(part, Threshold))


def _written(part: Any) -> str:
    """A threshold in words, anything else as Python writes it, without what is given by default."""
    if isinstance(part, Threshold):
        return str(part)
    given = [getattr(part, f.name) for f in fields(part) if f.init and getattr(part, f.name) != f.default]
    return f"{type(part).__name__}({', '.join(map(repr, given))})"
