"""Rules from the plain data that a checkpoint, a run file or a configuration holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gradclip.rules import combine, estimators, history, levels, norm, response, scope, threshold
from gradclip.rules.estimators import Estimator
from gradclip.rules.levels import Level
from gradclip.rules.norm import Norm
from gradclip.rules.plain import VERSION
from gradclip.rules.response import Response
from gradclip.rules.rule import AnyRule, Carry, Chain, Rule, Rules
from gradclip.rules.scope import Scope
from gradclip.rules.threshold import Schedule, Threshold

OPEN = (Scope, Norm, Threshold, Estimator, Level, Response)
"""What others may derive parts of their own from: those that are imported are read back, too."""

KINDS: dict[str, type] = {
    kind.__name__: kind
    for module in (scope, norm, threshold, combine, history, estimators, levels, response)
    for kind in vars(module).values()
    if isinstance(kind, type) and issubclass(kind, OPEN)
} | {"Rule": Rule, "Chain": Chain, "Rules": Rules, "Carry": Carry}


def from_dict(data: Mapping[str, Any]) -> AnyRule:
    """The rule that `to_dict` wrote."""
    if not isinstance(data, Mapping) or data.get("version") != VERSION:
        found = data.get("version") if isinstance(data, Mapping) else data
        raise ValueError(f"not a rule written by to_dict of version {VERSION}: found version {found!r}")
    rule = _decode({key: value for key, value in data.items() if key != "version"})
    if not isinstance(rule, Rule | Chain | Rules | Carry):
        raise ValueError(f"expected a rule, found a {type(rule).__name__}")
    return rule


def _kind_of(name: Any) -> type:
    """The class of this name: one of this package, or one that somebody has derived from its parts."""
    if name in KINDS:
        return KINDS[name]
    found = [kind for base in OPEN for kind in _derived(base) if kind.__name__ == name]
    if len(found) != 1:
        several = f": {' and '.join(kind.__module__ for kind in found)} have one each" if found else ""
        raise ValueError(
            f"unknown type {name!r}{several}: this version knows {', '.join(sorted(KINDS))}, and the parts of others "
            "once their module is imported"
        )
    return found[0]


def _derived(base: type) -> list[type]:
    children: list[type] = base.__subclasses__()
    return [*children, *(kind for child in children for kind in _derived(child))]


def _decode(value: Any) -> Any:
    if isinstance(value, Mapping):
        arguments = {name: _decode(item) for name, item in value.items() if name != "type"}
        kind = _kind_of(value.get("type"))
        return Schedule(*arguments["points"]) if kind is Schedule else kind(**arguments)
    if isinstance(value, list | tuple):
        return tuple(_decode(item) for item in value)
    return float(value) if value in ("inf", "-inf") else value
