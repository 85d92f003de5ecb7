"""Rules as plain data and back: what a checkpoint, a run file or a configuration holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from gradclip.rules import combine, estimators, history, levels, norm, response, scope, threshold
from gradclip.rules.estimators import Estimator
from gradclip.rules.levels import Level
from gradclip.rules.norm import Norm
from gradclip.rules.response import Response
from gradclip.rules.rule import AnyRule, Carry, Chain, Rule, Rules
from gradclip.rules.scope import Scope
from gradclip.rules.threshold import Schedule, Threshold

VERSION = 1

KINDS: dict[str, type] = {
    kind.__name__: kind
    for module in (scope, norm, threshold, combine, history, estimators, levels, response)
    for kind in vars(module).values()
    if isinstance(kind, type) and issubclass(kind, Scope | Norm | Threshold | Estimator | Level | Response)
} | {"Rule": Rule, "Chain": Chain, "Rules": Rules, "Carry": Carry}


def to_dict(rule: AnyRule) -> dict[str, Any]:
    """The rule as dicts, lists, strings and numbers."""
    return {"version": VERSION, **_encode(rule)}


def from_dict(data: Mapping[str, Any]) -> AnyRule:
    """The rule that `to_dict` wrote."""
    if not isinstance(data, Mapping) or data.get("version") != VERSION:
        found = data.get("version") if isinstance(data, Mapping) else data
        raise ValueError(f"not a rule written by to_dict of version {VERSION}: found version {found!r}")
    rule = _decode({key: value for key, value in data.items() if key != "version"})
    if not isinstance(rule, Rule | Chain | Rules | Carry):
        raise ValueError(f"expected a rule, found a {type(rule).__name__}")
    return rule


def _encode(value: Any) -> Any:
    if isinstance(value, Schedule) and value.function is not None:
        raise ValueError("a Schedule made from a function cannot be written: give it points, Schedule((0, 10.0), ...)")
    if is_dataclass(value):
        own = {field.name: _encode(getattr(value, field.name)) for field in fields(value) if field.init}
        return {"type": type(value).__name__, **{name: item for name, item in own.items() if name != "function"}}
    if isinstance(value, tuple):
        return [_encode(item) for item in value]
    return "inf" if value == float("inf") else value


def _decode(value: Any) -> Any:
    if isinstance(value, Mapping):
        arguments = {name: _decode(item) for name, item in value.items() if name != "type"}
        kind = KINDS.get(value.get("type", ""))
        if kind is None:
            raise ValueError(f"unknown type {value.get('type')!r}: this version knows {', '.join(sorted(KINDS))}")
        return Schedule(*arguments["points"]) if kind is Schedule else kind(**arguments)
    if isinstance(value, list | tuple):
        return tuple(_decode(item) for item in value)
    return float("inf") if value == "inf" else value
