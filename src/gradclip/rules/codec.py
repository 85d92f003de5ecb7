"""Rules from the plain data that a checkpoint, a run file or a configuration holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from gradclip.errors import shown
from gradclip.rules import combine, estimators, history, levels, norm, response, scope, threshold
from gradclip.rules.arguments import real_number
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
    """The rule that `to_dict` wrote; `ValueError` with the place where it is none that could have been written.

    >>> import json
    >>> from_dict(json.loads(json.dumps(ZClip().to_dict()))) == ZClip()
    True
    """
    if not isinstance(data, Mapping) or real_number(data.get("version")) != VERSION:
        found = data.get("version") if isinstance(data, Mapping) else data
        raise ValueError(f"not a rule written by to_dict of version {VERSION}: found version {shown(found)}")
    rule = _decode({key: value for key, value in data.items() if key != "version"}, "rule")
    if not isinstance(rule, Rule | Chain | Rules | Carry):
        raise ValueError(f"expected a rule, found a {type(rule).__name__}")
    return rule


def _kind_of(name: Any, where: str) -> type:
    """The class of this name: one of this package, or one that somebody has derived from its parts."""
    if isinstance(name, str) and name in KINDS:
        return KINDS[name]
    found = [kind for base in OPEN for kind in _derived(base) if kind.__name__ == name]
    if len(found) != 1:
        several = f": {' and '.join(kind.__module__ for kind in found)} have one each" if found else ""
        raise ValueError(
            f"{where} has the unknown type {shown(name)}{several}: this version knows {', '.join(sorted(KINDS))}, and "
            "the parts of others once their module is imported"
        )
    return found[0]


def _derived(base: type) -> list[type]:
    children: list[type] = base.__subclasses__()
    return [*children, *(kind for child in children for kind in _derived(child))]


def _decode(value: Any, where: str) -> Any:
    """What became `value`, which stands at `where`."""
    if isinstance(value, list | tuple):
        return tuple(_decode(item, f"{where}[{place}]") for place, item in enumerate(value))
    if not isinstance(value, Mapping):
        return float(value) if value in ("inf", "-inf") else value
    kind = _kind_of(value.get("type"), where)
    parts = {name: item for name, item in value.items() if name != "type"}
    _refuse_other_fields(kind, list(parts), where)
    arguments = {name: _decode(item, f"{where}[{name!r}]") for name, item in parts.items()}
    try:
        return Schedule(*arguments["points"]) if kind is Schedule else kind(**arguments)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where} cannot be a {kind.__name__}: {error}") from error


def _refuse_other_fields(kind: type, given: list[Any], where: str) -> None:
    known = [field for field in fields(kind) if field.init]
    names = [field.name for field in known]
    other = [name for name in given if name not in names]
    optional = [field.name for field in known if field.default is not MISSING or field.default_factory is not MISSING]
    lacking = [name for name in names if name not in (*given, *optional)]
    if other or lacking:
        wrong = f"has no {shown(other[0])}" if other else f"needs its {lacking[0]!r}"
        raise ValueError(f"{where} is a {kind.__name__}, which {wrong}: it has {', '.join(names) or 'nothing'}")
