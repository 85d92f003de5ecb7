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

OPEN = (Scope, Norm, Threshold, Estimator, Level, Response)
"""What others may derive parts of their own from: those that are imported are read back, too."""

KINDS: dict[str, type] = {
    kind.__name__: kind
    for module in (scope, norm, threshold, combine, history, estimators, levels, response)
    for kind in vars(module).values()
    if isinstance(kind, type) and issubclass(kind, OPEN)
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


def described(rule: AnyRule) -> dict[str, Any]:
    """The rule as plain data to compare it by: as `to_dict`, and a function by its name."""
    return _encode(rule, named=True)  # type: ignore[no-any-return]


def _encode(value: Any, named: bool = False) -> Any:
    if isinstance(value, Schedule) and value.function is not None and not named:
        raise ValueError("a Schedule made from a function cannot be written: give it points, Schedule((0, 10.0), ...)")
    if is_dataclass(value):
        own = {field.name: _encode(getattr(value, field.name), named) for field in fields(value) if field.init}
        return {
            "type": type(value).__name__,
            **{name: item for name, item in own.items() if name != "function" or item},
        }
    if isinstance(value, tuple):
        return [_encode(item, named) for item in value]
    if callable(value):
        return f"{value.__module__}.{getattr(value, '__qualname__', type(value).__qualname__)}"
    return "inf" if value == float("inf") else value


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
    return float("inf") if value == "inf" else value
